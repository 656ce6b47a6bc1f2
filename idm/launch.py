"""Brings a stack up: agents first, then its VCDs in order, then traffic, until the manager finds it whole."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from dm.v1.rollback_service_pb2 import (
    ROLLBACK_OUTCOME_CANCELLED,
    ROLLBACK_OUTCOME_RECOVERED,
    ROLLBACK_OUTCOME_UNSPECIFIED,
    Rollback,
)
from dm.v1.stack_pb2 import VERDICT_FAILED, VERDICT_OK, Status
from idm.deployment import DEPLOYS, Deployment, deploying
from idm.driver import Completed, DriverError, Instance, Power
from idm.errors import DeployError
from idm.journal import Journal
from idm.lock import lock
from idm.manifest import Manifest, Mode, Smoke
from idm.observe import Observer
from idm.progress import Progress, figures, outcome_word, statuses, suspicions, verdict_word
from idm.stack import Stack

# A smoke workload that failed is tried again after this; services may still be on their way up.
SMOKE_AGAIN_S = 1.0
INSTANCES_S = 0.3
INSPECT = "`idm status` shows more, `idm down` removes the stack"


@dataclass
class Sight:
    """What has been seen of a launch so far."""

    golden: str
    needs_smoke: bool
    mode: Mode
    smoke_passed: bool = False
    smoke_problem: str = ""
    status: Status = field(default_factory=Status)
    failed_rollback: Rollback | None = None
    idle: tuple[str, ...] = ()

    def success(self) -> str:
        """One line that says how the launch ended well; empty while it has not."""
        if self.idle or (self.needs_smoke and not self.smoke_passed):
            return ""
        if not self.golden:
            return "the stack runs; no golden image fits it yet: `idm capture` learns one and takes snapshots"
        if self.status.verdict == VERDICT_OK and not self.status.operation:
            return f"the stack is whole: {figures(self.status)}"
        return ""

    def failure(self) -> str:
        """One line that says why the launch cannot end well any more; empty while it can."""
        if (rollback := self.failed_rollback) is not None:
            why = f": {rollback.detail}" if rollback.detail else ""
            return f"rollback of {', '.join(rollback.vcds)} ended as {outcome_word(rollback.outcome)}{why} ({INSPECT})"
        if self.status.verdict == VERDICT_FAILED and self.mode is Mode.OBSERVE:
            return f"the stack has failed, and the mode is observe: {self._reasons()} ({INSPECT})"
        return ""

    def overdue(self) -> str:
        """One line that says what is still missing, once time is up."""
        if self.idle:
            return f"not running: {', '.join(self.idle)} ({INSPECT})"
        if self.smoke_problem:
            return f"the smoke workload does not pass: {self.smoke_problem} ({INSPECT})"
        return f"still {verdict_word(self.status.verdict)}: {self._reasons()} ({INSPECT})"

    def _reasons(self) -> str:
        return "; ".join(self.status.reasons) or figures(self.status)


async def up(
    stack: Stack, progress: Progress, *, deadline_s: float, on_success: Callable[[str], Awaitable[None]]
) -> None:
    """Bring the stack up; its manager and agents go on afterwards.

    ``on_success`` gets one line and runs while the stack is still attended to. Raises :class:`DeployError` (also within
    an exception group) when the stack does not become whole.
    """
    stack.home.create()
    with lock(stack.home.deployer_lock, purpose=DEPLOYS), Journal(stack.home.journal) as journal:
        launcher = Launcher(stack, progress)
        async with deploying(stack, journal, on_rollback=launcher.on_rollback) as deployment:
            await launcher.bring_up(deployment)
            await on_success(await launcher.settle(deployment, deadline_s=deadline_s))
            await deployment.finish()


class Launcher:
    """One launch of a stack."""

    def __init__(self, stack: Stack, progress: Progress) -> None:
        self._stack = stack
        self._progress = progress
        self._changed = asyncio.Event()
        manifest = stack.manifest
        self._sight = Sight(golden="", needs_smoke=manifest.smoke is not None, mode=manifest.rollback.mode)

    def on_rollback(self, rollback: Rollback) -> None:
        """An operation has moved on."""
        self._progress.rollback(rollback)
        fine = (ROLLBACK_OUTCOME_UNSPECIFIED, ROLLBACK_OUTCOME_RECOVERED, ROLLBACK_OUTCOME_CANCELLED)
        if rollback.outcome not in fine:
            self._sight.failed_rollback = rollback
            self._changed.set()

    async def bring_up(self, deployment: Deployment) -> None:
        """Everything until the last VCD is started."""
        await asyncio.to_thread(self._stack.driver.check)
        await asyncio.to_thread(self._stack.driver.prepare)
        await self._define()
        await deployment.start_manager()
        # The launch clock starts here: what comes before depends on image caches, not on the stack.
        deployment.journal.begin_launch()
        await deployment.apply()
        self._sight.golden = deployment.golden
        await self._warn_without_snapshot()
        await deployment.start_agents()
        deployment.attend()
        await deployment.agents.ready()
        for vcds in order(self._stack.manifest):
            await self._start(deployment.observer, vcds)
        await deployment.agents.settle()
        watched = await deployment.agents.ready()
        self._progress.note(f"{len(self._stack.vcds)} VCDs are started, {watched} agents watch them")

    async def settle(self, deployment: Deployment, *, deadline_s: float) -> str:
        """Watch until the launch has ended; returns how. Raises :class:`DeployError` when it ended badly."""
        smoke = self._stack.manifest.smoke
        try:
            async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as tasks:
                watchers = [
                    tasks.create_task(self._watch_status()),
                    tasks.create_task(self._watch_instances(deployment.observer)),
                ]
                watchers += [tasks.create_task(self._exercise(smoke))] if smoke is not None else []
                while not (self._sight.success() or self._sight.failure()):
                    self._changed.clear()
                    await self._changed.wait()
                for watcher in watchers:
                    watcher.cancel()
        except TimeoutError:
            self._progress.note(f"time is up after {deadline_s:.0f} s")
        if (success := self._sight.success()) and not self._sight.failure():
            return success
        for line in suspicions(self._sight.status):
            self._progress.note(line)
        raise DeployError(self._sight.failure() or self._sight.overdue())

    async def _define(self) -> None:
        """Define what is not there yet; what an earlier launch left keeps its state."""
        driver, manifest = self._stack.driver, self._stack.manifest
        present = await asyncio.to_thread(driver.instances)
        async with asyncio.TaskGroup() as tasks:
            for name, vcd in manifest.vcd.items():
                if name not in present or present[name].power is Power.ABSENT:
                    tasks.create_task(asyncio.to_thread(driver.define, vcd))

    async def _start(self, observer: Observer, vcds: tuple[str, ...]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for vcd in vcds:
                if not _runs(observer.instances, vcd):
                    tasks.create_task(asyncio.to_thread(self._stack.driver.start, vcd))
        await observer.refresh()

    async def _warn_without_snapshot(self) -> None:
        golden = self._sight.golden
        known = await asyncio.to_thread(self._stack.driver.snapshots)
        if golden and not any(snapshot.golden == golden for snapshot in known):
            self._progress.note(
                f"golden image {golden} has no snapshots here, so nothing can be rolled back to it"
            )

    async def _watch_status(self) -> None:
        async for status in statuses(self._stack.operator(), self._stack.name):
            self._progress.status(status)
            self._sight.status = status
            self._changed.set()

    async def _watch_instances(self, observer: Observer) -> None:
        while True:
            self._sight.idle = tuple(vcd for vcd in self._stack.vcds if not _runs(observer.instances, vcd))
            self._changed.set()
            await asyncio.sleep(INSTANCES_S)

    async def _exercise(self, smoke: Smoke) -> None:
        """Bring traffic, because most dependencies appear only under it; until it passes."""
        driver = self._stack.driver
        while True:
            try:
                end = await asyncio.to_thread(
                    driver.execute, smoke.vcd, smoke.command, timeout_s=smoke.timeout_s
                )
            except DriverError as e:
                self._sight.smoke_problem = str(e)
            else:
                self._sight.smoke_problem = last_line(end)
                if end.status == 0:
                    break
            await asyncio.sleep(SMOKE_AGAIN_S)
        self._progress.note("the smoke workload passed")
        self._sight.smoke_problem = ""
        self._sight.smoke_passed = True
        self._changed.set()


def order(manifest: Manifest) -> list[tuple[str, ...]]:
    """The VCDs in the order of their ``after``; those of one group may start together."""
    sorter = TopologicalSorter({name: vcd.after for name, vcd in manifest.vcd.items()})
    sorter.prepare()
    groups = []
    while sorter.is_active():
        group = sorter.get_ready()
        groups.append(tuple(sorted(group)))
        sorter.done(*group)
    return groups


def last_line(end: Completed) -> str:
    """The end of a command that failed, in one line."""
    lines = [line.strip() for line in end.output.splitlines() if line.strip()]
    return f"status {end.status}, {lines[-1]}" if lines else f"status {end.status}, no output"


def _runs(instances: Mapping[str, Instance], vcd: str) -> bool:
    return vcd in instances and instances[vcd].power is Power.RUNNING
