"""How a launch looks to a person: one live line on a terminal, one line per change anywhere else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc.aio
from rich.console import Console
from rich.markup import escape
from rich.status import Status as Spinner

from dm.client import connect
from dm.v1.rollback_service_pb2 import Rollback, RollbackOutcome, RollbackPhase
from dm.v1.stack_pb2 import Status, Verdict
from dm.v1.stack_service_pb2 import WatchStatusRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.manager import Access

AGAIN_S = 0.5


class Progress:
    """Shows what happens. Lines that matter stay; on a terminal the latest figures stand below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner: Spinner | None = None
        self._verdict = ""
        self._figures = ""
        self._rollback = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._spinner = self._console.status("launching")
            self._spinner.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def note(self, line: str) -> None:
        """A line that stays."""
        self._console.print(escape(line), soft_wrap=True, highlight=False)

    def status(self, status: Status) -> None:
        """The stack's present state."""
        verdict, now = verdict_word(status.verdict), figures(status)
        if verdict != self._verdict:
            self.note(": ".join([verdict, *status.reasons[:1]]) if status.reasons else verdict)
        elif self._spinner is None and now != self._figures:
            self.note(now)
        if self._spinner is not None:
            self._spinner.update(escape(f"{verdict}, {now}"))
        self._verdict, self._figures = verdict, now

    def rollback(self, rollback: Rollback) -> None:
        """An operation has moved on."""
        if (line := describe(rollback)) != self._rollback:
            self.note(line)
        self._rollback = line


def verdict_word(verdict: Verdict.ValueType) -> str:
    """A verdict as people read it."""
    return Verdict.Name(verdict).removeprefix("VERDICT_").lower().replace("unspecified", "not judged yet")


def phase_word(phase: RollbackPhase.ValueType) -> str:
    """A phase as people read it."""
    return RollbackPhase.Name(phase).removeprefix("ROLLBACK_PHASE_").lower()


def outcome_word(outcome: RollbackOutcome.ValueType) -> str:
    """An outcome as people read it; empty while there is none."""
    word = RollbackOutcome.Name(outcome).removeprefix("ROLLBACK_OUTCOME_").lower().replace("_", " ")
    return "" if word == "unspecified" else word


def figures(status: Status) -> str:
    """The golden edges, counted by state."""
    if not status.golden:
        return "no golden image"
    wrong = status.edges_golden - status.edges_ok - status.edges_waiting
    return (
        f"{status.edges_ok} of {status.edges_golden} edges ok, {status.edges_waiting} waiting, {wrong} wrong"
    )


def describe(rollback: Rollback) -> str:
    """An operation in one line."""
    state = outcome_word(rollback.outcome) or phase_word(rollback.phase)
    line = f"rollback {rollback.operation} of {', '.join(rollback.vcds)}: {state}"
    return f"{line}, {rollback.detail}" if rollback.detail else line


def suspicions(status: Status) -> list[str]:
    """Who is blamed and why, one line each; nobody against whom nothing speaks."""
    return [f"{s.name} ({s.score:.0%}): {'; '.join(s.evidence)}" for s in status.suspects if s.evidence]


async def statuses(access: Access, stack: str) -> AsyncIterator[Status]:
    """The status whenever it changes, also across breaks of the manager (about which the attendant complains)."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            async with connect(access.target, tls=access.tls) as channel:
                async for response in StackServiceStub(channel).WatchStatus(WatchStatusRequest(stack=stack)):
                    yield response.status
        await asyncio.sleep(AGAIN_S)
