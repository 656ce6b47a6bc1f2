"""What runs while a stack is deployed: manager and agents, the view of the instances, the stream to the manager."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import structlog

from dm.v1.rollback_service_pb2 import Rollback
from dm.v1.stack_pb2 import StackSpec
from dm.v1.stack_service_pb2 import ApplyStackRequest, ApplyStackResponse
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.agents import Agents, HostAgents
from idm.attend import Attendant
from idm.ca import Authority
from idm.declaration import declare, report
from idm.delivery.agent import agent_payload
from idm.delivery.agents import GuestAgents
from idm.delivery.guest import Shell
from idm.delivery.payload import Payload
from idm.driver import Driver, Instance
from idm.errors import DeployError
from idm.executor import Executor
from idm.home import Home
from idm.journal import Journal, Launch
from idm.manager import CALL_S, answers, call, endpoint, heard, manager
from idm.manifest import Manifest
from idm.observe import Observer
from idm.process import find
from idm.sockets import destroy
from idm.supervise import Child, Supervisor

MANAGER_S = 20.0
TIDY_S = 30.0
# A restore that is under way is finished before a deployer ends.
FINISH_S = 20.0
DEPLOYS = "deploys this stack"

_log = structlog.get_logger()


@dataclass(frozen=True)
class Stack:
    """One stack on this host, as its manifest and the host's settings have it.

    ``guests`` runs programs in its VMs, whose agents are services of theirs; containers are watched from this host.
    """

    manifest: Manifest
    fingerprint: str
    home: Home
    driver: Driver
    guests: Shell | None = None

    @property
    def name(self) -> str:
        """The stack's name."""
        return self.manifest.stack.name

    @property
    def vcds(self) -> list[str]:
        """The names of its VCDs."""
        return list(self.manifest.vcd)

    def payload(self, vcd: str) -> Payload:
        """What the agent in a guest has to know now; blocking. Raises ``CaError``."""
        address, port = endpoint(self.manifest)
        return agent_payload(
            manager=f"{address}:{port}",
            stack=self.name,
            vcd=vcd,
            interval_ms=self.manifest.agent.interval_ms,
            tls=Authority(self.home.authority, self.name).vcd(vcd),
            naming=self.manifest.naming.configuration(),
        )

    def manager(self) -> Child:
        """The manager that this stack needs, with a certificate that is good for long; blocking. Raises ``CaError``."""
        if self.guests is None:
            return manager(self.home)
        address, port = endpoint(self.manifest)
        tls = Authority(self.home.authority, self.name).manager([IPv4Address(address)])
        return manager(self.home, listen=f"{address}:{port}", tls=tls)


@dataclass
class Deployment:
    """The live parts, and what they are connected by."""

    stack: Stack
    journal: Journal
    supervisor: Supervisor
    tasks: asyncio.TaskGroup
    on_rollback: Callable[[Rollback], None]
    golden: str = ""
    _parts: list[asyncio.Task[None]] = field(default_factory=list)
    agents: Agents = field(init=False)
    observer: Observer = field(init=False)
    executor: Executor = field(init=False)
    attendant: Attendant = field(init=False)

    def __post_init__(self) -> None:
        stack, home = self.stack, self.stack.home
        self.agents = self._agents()
        self.observer = Observer(stack.driver, stack.vcds, on_change=self._on_change)
        self.executor = Executor(
            stack.driver, self.journal, home, expect=self.agents.expect, changed=self.observer.look
        )
        self.attendant = Attendant(
            home.target,
            declare=self._declare,
            reports=lambda: [report(instance) for instance in self.observer.instances.values()],
            carry_out=self.executor.carry_out,
            on_applied=self._on_applied,
            on_rollback=self.on_rollback,
        )

    async def start_manager(self) -> None:
        """Adopt or start the manager, and wait until it answers. Raises :class:`DeployError`.

        One that answers already and is no child, such as a unit of its own, is used and left alone.
        """
        home = self.stack.home
        if (child := find(home.run, "dm")) is not None:
            child[1].close()
        elif await answers(home.target):
            return
        self.supervisor.keep(await asyncio.to_thread(self.stack.manager))
        await self.supervisor.ready(["dm"], timeout_s=MANAGER_S)

    async def apply(self) -> None:
        """Declare the stack, so that the generations are known before any agent starts. Raises ``ManagerError``."""
        request = ApplyStackRequest(stack=self._declare())
        self._on_applied(
            await call(
                self.stack.home.target,
                lambda channel: StackServiceStub(channel).ApplyStack(request, timeout=CALL_S),
            )
        )

    async def start_agents(self) -> None:
        """An agent on every instance that has a network to watch already; they are not ready yet."""
        await self.observer.refresh()
        await self.agents.settle()

    def attend(self) -> None:
        """From now on attend to the stack."""
        for part in (self.observer.run(), self.agents.run(), self.attendant.run(), self._tidy()):
            self._parts.append(self.tasks.create_task(part))

    async def finish(self) -> None:
        """Let a command end that is being carried out; the journal knows of one that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await self.attendant.idle()

    def stop(self) -> None:
        """Attend no longer."""
        for part in self._parts:
            part.cancel()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            await asyncio.to_thread(self.supervisor.trim_logs)
            try:
                # A certificate that has become old is issued anew, and the manager takes what it finds there.
                await asyncio.to_thread(self.stack.manager)
            except DeployError as e:
                _log.warning("certificates are not renewed", problem=str(e))

    def _agents(self) -> Agents:
        stack, manifest = self.stack, self.stack.manifest
        if stack.guests is None:
            return HostAgents(
                self.supervisor,
                stack.home,
                stack=stack.name,
                interval_ms=manifest.agent.interval_ms,
                naming=manifest.naming.configuration(),
            )
        _, port = endpoint(manifest)
        return GuestAgents(
            stack.guests,
            stack.vcds,
            payload=stack.payload,
            heard=lambda: heard(stack.home.target, stack.name),
            gone=lambda vcd: destroy(manifest.vcd[vcd].address, port=port),
            installers={},
        )

    def _on_change(self, instance: Instance) -> None:
        self.agents.follow(instance)
        self.attendant.tell(report(instance))

    def _on_applied(self, response: ApplyStackResponse) -> None:
        self.golden = response.golden
        self.agents.expect_all(response.generations)

    def _declare(self) -> StackSpec:
        launch: Launch = self.journal.launch() or self.journal.begin_launch()
        return declare(self.stack.manifest, fingerprint=self.stack.fingerprint, launch=launch)


@asynccontextmanager
async def deploying(
    stack: Stack, journal: Journal, *, on_rollback: Callable[[Rollback], None]
) -> AsyncIterator[Deployment]:
    """A deployment whose parts end with the context, while its children (manager and agents) go on."""
    async with asyncio.TaskGroup() as tasks:
        supervisor = Supervisor(stack.home.run, tasks)
        deployment = Deployment(stack, journal, supervisor, tasks, on_rollback)
        try:
            yield deployment
        finally:
            deployment.stop()
            supervisor.release()
