"""The decision to roll back, and one operation's way through its phases. Pure: times are passed in, nothing is done.

detected → (approval) → evidence → revert → verify → done. Each step is stored by the caller before it is acted on, so a
manager that is killed anywhere goes on from there, and the command's token keeps a deployer from doing it twice.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from dm.blame import Suspect

ATTEMPTS_WINDOW_MS = 3_600_000
NOBODY = "nobody attends to the stack, so nothing is rolled back: idm watch does"


class Mode(StrEnum):
    """How far to go without a person."""

    OBSERVE = "observe"
    APPROVE = "approve"
    AUTO = "auto"


class Phase(StrEnum):
    """How far an operation is."""

    DETECTED = "detected"
    APPROVAL = "waiting for approval"
    EVIDENCE = "saving evidence"
    REVERT = "reverting"
    VERIFY = "verifying"
    DONE = "done"


class Outcome(StrEnum):
    """How an operation ended."""

    NONE = ""
    RECOVERED = "recovered"
    STILL_BAD = "reverted but still bad"
    REVERT_FAILED = "revert failed"
    GAVE_UP = "gave up"
    CANCELLED = "cancelled"


class Limits(NamedTuple):
    """What may be done about a failed stack."""

    mode: Mode = Mode.OBSERVE
    attempts_per_vcd: int = 2
    attempts_per_stack: int = 4
    at_once: int = 1
    cooldown_ms: int = 10_000


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One rollback. Times are milliseconds since the Unix epoch by the manager's clock; 0 means not yet."""

    id: str
    stack: str
    vcds: tuple[str, ...]
    golden: str
    suspects: tuple[Suspect, ...] = ()
    symptoms: tuple[str, ...] = ()
    phase: Phase = Phase.DETECTED
    outcome: Outcome = Outcome.NONE
    token: int = 0
    excluded: tuple[str, ...] = ()
    snapshot: str = ""
    detail: str = ""
    fault_ms: int = 0
    decided_ms: int
    reverted_ms: int = 0
    verify_by_ms: int = 0
    ended_ms: int = 0
    manual: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase is Phase.DONE


class Refusal(NamedTuple):
    """Why nothing is done. ``final`` when only a person can help; then it is journalled once."""

    reason: str
    final: bool


def refuse(
    vcds: Sequence[str],
    limits: Limits,
    past: Iterable[Operation],
    now_ms: int,
    *,
    unrevertible: Sequence[str] = (),
) -> Refusal | None:
    """Whether the limits, or reasons why some cannot be taken back at all, forbid a rollback of these VCDs now."""
    if limits.mode is Mode.OBSERVE:
        return Refusal("the mode is observe: nothing is rolled back", final=False)
    if unrevertible:
        return Refusal("; ".join(unrevertible), final=True)
    recent = [operation for operation in past if now_ms - operation.decided_ms < ATTEMPTS_WINDOW_MS]
    tried = [
        operation
        for operation in recent
        if operation.reverted_ms or operation.outcome is Outcome.REVERT_FAILED
    ]
    if any(now_ms - operation.ended_ms < limits.cooldown_ms for operation in tried if operation.ended_ms):
        return Refusal("the last rollback ended only now: cooling down", final=False)
    if len(vcds) > limits.at_once:
        return Refusal(
            f"{len(vcds)} VCDs would have to be rolled back, at most {limits.at_once} may be", final=True
        )
    if len(tried) >= limits.attempts_per_stack:
        return Refusal(f"{len(tried)} rollbacks in this stack within an hour did not settle it", final=True)
    for vcd in vcds:
        times = sum(vcd in operation.vcds for operation in tried)
        if times >= limits.attempts_per_vcd:
            return Refusal(f"{vcd} was rolled back {times} times within an hour already", final=True)
    return None


def begin(operation: Operation, limits: Limits, *, token: int) -> Operation:
    """The first step: ask a person, or save evidence at once."""
    if limits.mode is Mode.APPROVE and not operation.manual:
        detail = f"waiting for `idm approve {operation.id}`"
        return msgspec.structs.replace(operation, phase=Phase.APPROVAL, detail=detail)
    return save_evidence(operation, token=token)


def save_evidence(operation: Operation, *, token: int) -> Operation:
    """Send the deployer for evidence."""
    return msgspec.structs.replace(operation, phase=Phase.EVIDENCE, token=token, detail="saving evidence")


def revert(operation: Operation, *, token: int, evidence: str) -> Operation:
    """Evidence is saved, or could not be; the revert comes next either way."""
    return msgspec.structs.replace(operation, phase=Phase.REVERT, token=token, detail=evidence)


def reverted(operation: Operation, *, snapshot: str, now_ms: int, verify_by_ms: int) -> Operation:
    """The instances run again; the graph has until ``verify_by_ms`` to be whole."""
    return msgspec.structs.replace(
        operation,
        phase=Phase.VERIFY,
        snapshot=snapshot,
        reverted_ms=now_ms,
        verify_by_ms=verify_by_ms,
        detail=f"reverted to snapshot {snapshot}, waiting for the graph to be whole",
    )


def end(operation: Operation, outcome: Outcome, *, detail: str, now_ms: int) -> Operation:
    """The last step."""
    return msgspec.structs.replace(
        operation, phase=Phase.DONE, outcome=outcome, detail=detail, ended_ms=now_ms
    )


def tried_snapshots(vcds: Sequence[str], past: Iterable[Operation], now_ms: int) -> tuple[str, ...]:
    """Snapshots that did not help these VCDs within the attempts' window."""
    return tuple(
        operation.snapshot
        for operation in past
        if operation.outcome is Outcome.STILL_BAD
        and set(operation.vcds) & set(vcds)
        and operation.snapshot
        and now_ms - operation.decided_ms < ATTEMPTS_WINDOW_MS
    )
