"""What runs while a stack is deployed: manager and agents, the view of the instances, the stream to the manager."""

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from dm.client import ManagerError
from dm.v1.rollback_service_pb2 import InstanceReport, Rollback
from dm.v1.stack_pb2 import StackSpec
from dm.v1.stack_service_pb2 import ApplyStackRequest, ApplyStackResponse
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.agents import Agents, HostAgents
from idm.attend import Attendant
from idm.declaration import declare, report
from idm.delivery.agents import GuestAgents
from idm.delivery.manager import seat
from idm.driver import Instance
from idm.errors import DeployError
from idm.executor import Executor
from idm.journal import Journal, Launch
from idm.lock import holder
from idm.manager import CALL_S, answers, call, endpoint, heard
from idm.manifest import Delivery, ManifestError, load
from idm.observe import Observer
from idm.process import find
from idm.sockets import destroy
from idm.stack import Stack
from idm.supervise import Supervisor

MANAGER_S = 20.0
TIDY_S = 30.0
# A restore that is under way is finished before a deployer ends.
FINISH_S = 20.0
DEPLOYS = "deploys this stack"
RELOAD = signal.SIGUSR1
"""Has a deployer reload. SIGHUP would also be what a terminal sends that goes away."""

_log = structlog.get_logger()


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
        self.observer = Observer(
            stack.driver, stack.vcds, on_change=self._on_change, saving=lambda: _saving(home.snapshot_lock)
        )
        self.executor = Executor(
            stack.driver,
            self.journal,
            home,
            expect=self.agents.expect,
            changed=self.observer.look,
            seat=stack.seat,
        )
        self.attendant = Attendant(
            stack.deployer(),
            declare=self._declare,
            reports=lambda: [self._report(instance) for instance in self.observer.instances.values()],
            carry_out=self.executor.carry_out,
            on_applied=self._on_applied,
            on_rollback=self.on_rollback,
        )

    async def start_manager(self) -> None:
        """Adopt or start the manager, and wait until it answers. Raises :class:`DeployError`.

        One that answers already and is no child, such as a unit of its own, is used and left alone.
        """
        stack, home = self.stack, self.stack.home
        if stack.seat and stack.guests is not None:
            await asyncio.to_thread(stack.driver.start, stack.seat)
            payload = await asyncio.to_thread(stack.manager_payload)
            installer = stack.installer(stack.seat)
            await seat(stack.guests, stack.seat, payload, stack.deployer(), installer=installer)
            return
        if (child := find(home.run, "dm")) is not None:
            child[1].close()
        elif await answers(stack.deployer()):
            return
        self.supervisor.keep(await asyncio.to_thread(stack.manager))
        await self.supervisor.ready(["dm"], timeout_s=MANAGER_S)

    async def apply(self) -> None:
        """Declare the stack, so that the generations are known before any agent starts. Raises ``ManagerError``."""
        request = ApplyStackRequest(stack=self._declare())
        self._on_applied(
            await call(
                self.stack.deployer(),
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

    async def reload(self) -> None:
        """Judge, and roll back, by what the manifest says now. All else in it waits for the next launch."""
        try:
            now = await asyncio.to_thread(load, self.stack.source)
        except ManifestError as e:
            _log.warning("settings are not taken into use", problem=str(e))
            return
        manifest = msgspec.structs.replace(self.stack.manifest, judge=now.judge, rollback=now.rollback)
        self.stack = dataclasses.replace(self.stack, manifest=manifest)
        if self._parts:
            # While no manager answers, the attendant goes on trying.
            with suppress(ManagerError):
                await self.apply()
        _log.info("settings are taken into use", manifest=str(self.stack.source))

    def stop(self) -> None:
        """Attend no longer."""
        for part in self._parts:
            part.cancel()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            await asyncio.to_thread(self.supervisor.trim_logs)
            try:
                await asyncio.to_thread(self.stack.renew)
            except DeployError as e:
                _log.warning("certificates are not renewed", problem=str(e))

    def _agents(self) -> Agents:
        stack, manifest = self.stack, self.stack.manifest
        if stack.guests is None:
            return HostAgents(
                self.supervisor,
                stack.home,
                stack=stack.name,
                agent=manifest.agent,
                naming=manifest.naming.configuration(),
            )
        _, port = endpoint(manifest)
        return GuestAgents(
            stack.guests,
            stack.vcds,
            payloads=stack.payloads,
            heard=lambda: heard(stack.deployer(), stack.name),
            gone=lambda vcd: destroy(manifest.vcd[vcd].address, port=port),
            installers={vcd: one for vcd in stack.vcds if (one := stack.installer(vcd)) is not None},
            seeded={vcd for vcd in stack.vcds if manifest.delivery(vcd) is Delivery.CLOUD_INIT},
        )

    def _on_change(self, instance: Instance) -> None:
        self.agents.follow(instance)
        self.attendant.tell(self._report(instance))

    def _report(self, instance: Instance) -> InstanceReport:
        return report(instance, self.stack.manifest.vcd[instance.vcd])

    def _on_applied(self, response: ApplyStackResponse) -> None:
        self.golden = response.golden
        self.agents.expect_all(response.generations)

    def _declare(self) -> StackSpec:
        launch: Launch = self.journal.launch() or self.journal.begin_launch()
        return declare(self.stack.manifest, fingerprint=self.stack.fingerprint, launch=launch)


def _saving(snapshot_lock: Path) -> bool:
    """Whether another process works on the snapshots, such as `idm capture`."""
    if (found := holder(snapshot_lock)) is None:
        return False
    with found:
        return found.pid != os.getpid()


@asynccontextmanager
async def deploying(
    stack: Stack, journal: Journal, *, on_rollback: Callable[[Rollback], None]
) -> AsyncIterator[Deployment]:
    """A deployment whose parts end with the context, while its children (manager and agents) go on."""
    async with asyncio.TaskGroup() as tasks:
        supervisor = Supervisor(stack.home.run, tasks)
        deployment = Deployment(stack, journal, supervisor, tasks, on_rollback)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(RELOAD, lambda: tasks.create_task(deployment.reload()))
        try:
            yield deployment
        finally:
            loop.remove_signal_handler(RELOAD)
            deployment.stop()
            supervisor.release()
