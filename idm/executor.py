"""Carries out the manager's commands on the driver, each exactly once, as the journal says."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import structlog

from dm.v1.rollback_service_pb2 import Command, CommandResult, Revert, SaveEvidence
from idm.driver import Driver, DriverError
from idm.errors import DeployError
from idm.home import Home
from idm.journal import Entry, Journal
from idm.lock import lock
from idm.snapshots import choose

EVIDENCE_S = 3.0
# A snapshot that is being taken must be over by then.
LOCK_S = 60.0

_log = structlog.get_logger()


class Executor:
    """The commands of one stack, one at a time.

    ``expect`` is told before a VCD is taken back which generation its next agent has, ``changed`` when an instance has
    become another one. Both must return at once: the restore waits for no agent.
    """

    def __init__(
        self,
        driver: Driver,
        journal: Journal,
        home: Home,
        *,
        expect: Callable[[str, int], None],
        changed: Callable[[], None],
        seat: str = "",
    ) -> None:
        self._driver = driver
        self._journal = journal
        self._home = home
        self._expect = expect
        self._changed = changed
        self._seat = seat

    async def carry_out(self, command: Command) -> CommandResult:
        """Do what is left to do of a command; what goes wrong on the hypervisor is told in the result."""
        if (answer := self._answer_from_journal(command)) is not None:
            return answer
        action = command.WhichOneof("action")
        self._journal.begin(command.token, operation=command.operation, action=action or "")
        match action:
            case "save_evidence":
                await self._save_evidence(command, command.save_evidence)
            case "revert":
                await self._revert(command, command.revert)
            case _:
                self._journal.finish(
                    command.token, problem="this deployer does not know the command: update it"
                )
        entry = self._journal.get(command.token)
        _log.info(
            "command carried out",
            operation=entry.operation,
            action=entry.action,
            snapshot=entry.snapshot,
            problem=entry.problem,
        )
        return _result(entry)

    def _answer_from_journal(self, command: Command) -> CommandResult | None:
        """The answer to a command for which nothing may be done (again); none for one to carry out or to resume."""
        newest = self._journal.newest()
        if (entry := self._journal.find(command.token)) is None:
            if command.token > newest:
                return None
            problem = f"void: token {command.token} is older than {newest}, which was carried out"
        elif entry.operation != command.operation:
            problem = f"void: token {command.token} was used for operation {entry.operation}"
        elif entry.done:
            return _result(entry)
        elif command.token == newest:
            return None
        else:
            problem = f"void: token {command.token} was overtaken by {newest} before it was carried out"
        return CommandResult(operation=command.operation, token=command.token, problem=problem)

    async def _save_evidence(self, command: Command, action: SaveEvidence) -> None:
        directory = self._home.evidence(command.operation)
        problems: list[str] = []

        async def save(vcd: str) -> None:
            try:
                await asyncio.to_thread(self._driver.evidence, vcd, directory / vcd)
            except (DriverError, OSError) as e:
                problems.append(f"{vcd}: {e}")

        try:
            async with asyncio.timeout(EVIDENCE_S):
                await asyncio.to_thread(_prepare_evidence, directory, action)
                async with asyncio.TaskGroup() as tasks:
                    for vcd in action.vcds:
                        tasks.create_task(save(vcd))
        except TimeoutError:
            problems.append(
                f"evidence was not complete after {EVIDENCE_S:.0f} s: the rest may follow in {directory}"
            )
        except OSError as e:
            problems.append(f"evidence cannot be written to {directory}: {e.strerror or e}")
        self._journal.finish(command.token, problem="; ".join(problems), evidence=str(directory))

    async def _revert(self, command: Command, action: Revert) -> None:
        problem = ""
        try:
            self._spare_manager(action)
            with ExitStack() as held:
                snapshots = lock(self._home.snapshot_lock, purpose="works on the snapshots", wait_s=LOCK_S)
                await asyncio.to_thread(held.enter_context, snapshots)
                problem = await self._restore(command.token, action)
        except (DeployError, DriverError) as e:
            problem = str(e)
        self._journal.finish(command.token, problem=problem)

    def _spare_manager(self, action: Revert) -> None:
        if self._seat in action.vcds:
            raise DeployError(
                f"{self._seat} holds the manager, who would forget what it is doing: take it back by hand"
            )

    async def _restore(self, token: int, action: Revert) -> str:
        """Take back the VCDs that are left, all at once; returns what went wrong."""
        if not (tag := self._journal.get(token).snapshot):
            known = await asyncio.to_thread(self._driver.snapshots)
            tag = choose(known, action.vcds, golden=action.golden, excluded=action.excluded)
            self._journal.choose(token, snapshot=tag)
        finished = self._journal.finished_steps(token)
        problems: list[str] = []

        async def restore(vcd: str) -> None:
            self._journal.begin_step(token, vcd)
            try:
                await asyncio.to_thread(self._driver.restore, vcd, tag=tag)
            except DriverError as e:
                problems.append(f"{vcd}: {e}")
            else:
                self._journal.finish_step(token, vcd)
            self._changed()

        async with asyncio.TaskGroup() as tasks:
            for vcd in action.vcds:
                self._expect(vcd, action.generations[vcd])
                if vcd not in finished:
                    tasks.create_task(restore(vcd))
        return "; ".join(problems)


def _prepare_evidence(directory: Path, action: SaveEvidence) -> None:
    for vcd in action.vcds:
        (directory / vcd).mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "graph.json").write_text(action.graph)


def _result(entry: Entry) -> CommandResult:
    return CommandResult(
        operation=entry.operation,
        token=entry.token,
        problem=" ".join(entry.problem.split()),
        snapshot=entry.snapshot,
        evidence=entry.evidence,
    )
