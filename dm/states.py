"""The states of an edge against the golden image, and the sentences that say why. Pure values."""

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from dm.edge import Door, LiveEdge, Transport


class EdgeState(StrEnum):
    """One edge against the golden image."""

    WAITING = "waiting"
    OK = "ok"
    FAILING = "failing"
    MISSING = "missing"
    RETARGETED = "retargeted"
    UNEXPECTED = "unexpected"
    TOLERATED = "tolerated"


WRONG = frozenset({EdgeState.FAILING, EdgeState.MISSING, EdgeState.RETARGETED})


ANY_MACHINES = frozenset({(Transport.TCP, 22)})
"""What listens there belongs to the machine, and tells nothing of what it is for."""


class Judged(NamedTuple):
    """An edge's state and the sentence that says why. ``since_s`` is when the state began."""

    state: EdgeState
    reason: str
    since_s: float
    counted: bool


class Source(NamedTuple):
    """What is known of a VCD: when it started, and since when its agent sees everything (None: it does not).

    ``deaf`` is where it listened since it started and does no longer, with when that was told; ``doors`` where it
    listens now; ``over`` says that it does not run; ``begun_s`` is when a program of it was last started anew.
    """

    started_s: float
    seen_since_s: float | None
    deaf: Mapping[Door, float] = MappingProxyType({})
    over: str = ""
    doors: frozenset[Door] = frozenset()
    begun_s: float = -math.inf

    @property
    def lives(self) -> bool:
        """Whether it takes calls, and wherever it did."""
        return not self.deaf and not self.doors <= ANY_MACHINES


def failure_sentence(live: LiveEdge, now_s: float) -> str:
    """What fails, how often and since when, as a person would say it."""
    if live.failures_since_ok == 0 and live.oldest_pending_s is not None:
        return f"an attempt has been without an answer for {now_s - live.oldest_pending_s:.1f} s"
    count, kinds = live.failures_since_ok, " and ".join(sorted(live.kinds)) or "failing"
    when = ""
    if live.failing_since_s is not None:
        for_s = f"{now_s - live.failing_since_s:.1f} s"
        when = f" {for_s} ago" if count == 1 else f" in the last {for_s}"
    return f"{count} attempt{'s' if count != 1 else ''} {kinds}{when}"
