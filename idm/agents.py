"""One agent per VCD, and the agents of containers: on the host beside them, replaced with the instance."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Protocol

from idm.driver import Instance
from idm.home import Home
from idm.manifest import Agent
from idm.supervise import Child, Supervisor

AGENTS_S = 30.0


class Agents(Protocol):
    """The agents of one stack, in line with its instances."""

    def expect(self, vcd: str, generation: int) -> None:
        """Agents of this VCD that start from now on have this generation; an older one than known is ignored."""

    def expect_all(self, generations: Mapping[str, int]) -> None:
        """The same for several."""

    def follow(self, instance: Instance) -> None:
        """Watch this instance from now on, instead of any earlier one of its VCD."""

    async def settle(self) -> None:
        """Bring all agents in line now; new ones are not ready yet when this returns."""

    async def ready(self) -> int:
        """Wait for the agents of all instances that can have one by now; returns how many there are.

        Raises :class:`idm.errors.DeployError` that says why one is not ready.
        """

    async def run(self) -> None:
        """Start, replace and end agents as their VCDs change, until cancelled."""


class HostAgents:
    """Children of the deployer, one in the network namespace of each container.

    ``naming`` is what their configuration file says.
    """

    def __init__(
        self, supervisor: Supervisor, home: Home, *, stack: str, agent: Agent, naming: str = ""
    ) -> None:
        self._supervisor = supervisor
        self._home = home
        self._stack = stack
        self._agent = agent
        self._naming = naming
        self._generations: dict[str, int] = {}
        self._moved = asyncio.Event()
        self._settling = asyncio.Lock()
        self._wanted: dict[str, Child | None] = {}

    def expect(self, vcd: str, generation: int) -> None:
        """Agents of this VCD that start from now on have this generation; an older one than known is ignored."""
        self._generations[vcd] = max(generation, self._generations.get(vcd, 0))

    def expect_all(self, generations: Mapping[str, int]) -> None:
        """The same for several."""
        for vcd, generation in generations.items():
            self.expect(vcd, generation)

    def follow(self, instance: Instance) -> None:
        """Watch this instance from now on, instead of any earlier one of its VCD."""
        self._wanted[instance.vcd] = self._child(instance)
        self._moved.set()

    async def run(self) -> None:
        """Start, replace and end agents as their VCDs change, until cancelled."""
        while True:
            await self._moved.wait()
            await self.settle()

    async def settle(self) -> None:
        """Bring all agents in line now; new ones are not ready yet when this returns."""
        async with self._settling:
            self._moved.clear()
            async with asyncio.TaskGroup() as tasks:
                for vcd, child in self._wanted.items():
                    tasks.create_task(self._settle(agent_name(vcd), child))

    async def ready(self) -> int:
        """Wait for the agents of all instances that have a network by now; returns how many there are."""
        names = [agent_name(vcd) for vcd, child in self._wanted.items() if child is not None]
        await self._supervisor.ready(names, timeout_s=AGENTS_S)
        return len(names)

    async def _settle(self, agent: str, child: Child | None) -> None:
        kept = self._supervisor.child(agent)
        if child is None:
            if kept is not None:
                await self._supervisor.end(agent)
        elif kept is None:
            self._supervisor.keep(child)
        elif kept.identity != child.identity:
            # Nothing in the old agent is worth a grace: its machine is gone, its table is soft, its hooks die with it.
            await self._supervisor.end(agent, grace_s=0)
            self._supervisor.keep(child)

    def _child(self, instance: Instance) -> Child | None:
        if instance.netns is None:
            return None
        try:
            identity = str(instance.netns.stat().st_ino)
        except OSError:
            return None
        command = [sys.executable, "-P", "-m", "dma", "run", "--dm", self._home.target]
        command += ["--stack", self._stack, "--vcd", instance.vcd, "--netns", str(instance.netns)]
        command += ["--interval-ms", str(self._agent.interval_ms), "--plan", self._agent.plan.value]
        if self._naming:
            self._home.naming.write_text(self._naming)
            command += ["--config", str(self._home.naming)]
        command += ["--generation", str(self._generations.get(instance.vcd, 0))]
        if instance.cgroup is not None:
            command += ["--cgroup", str(instance.cgroup)]
        if instance.netns.match("/proc/*/ns/net"):
            command += ["--root", str(instance.netns.parent.parent / "root")]
        return Child(
            agent_name(instance.vcd), tuple(command), identity=f"{identity} {instance.netns}", notifies=True
        )


def agent_name(vcd: str) -> str:
    """What the agent of a VCD is called among the children."""
    return f"agent-{vcd}"
