"""The figures that a benchmark states, each against its goal."""

import statistics
from collections.abc import Iterator, Sequence
from typing import TypedDict

from tests.bench.capture.agent import Usage
from tests.bench.capture.cost import (
    BPFTRACE,
    CONNTRACK,
    FLOOR,
    NOTHING,
    OURS,
    PACKETS,
    TCPCONNECT,
    TCPTRACER,
    Costs,
)
from tests.bench.capture.flood import Flood
from tests.bench.capture.load import DESTINATIONS

GOALS = {FLOOR: 2.5, BPFTRACE: 0.7}
GOAL_TCPCONNECT = 0.3
EVENTS = (PACKETS, CONNTRACK)
"""What tells of every packet or connection; no goal, since nobody would use it for this."""
COSTLY = {"tcp": "connect and close", "udp": "UDP send"}
GOAL_CPU = 0.01
GOAL_RSS_MB = 60.0
GOAL_START_S = 0.5
GOAL_WAKEUPS = 1.0
GOAL_SYSTEM_CALLS = 0.01
"""None for a connection, as exactly as it can be measured."""


class Figure(TypedDict):
    """One row of the README's table; without a rival, ``other`` and ``ratio`` are None."""

    name: str
    ours: float
    other: float | None
    other_name: str
    ratio: float | None
    goal: str
    holds: bool


def of_costs(costs: Costs, *, plan: str) -> Iterator[Figure]:
    """What the kernel's side adds to a call, in nanoseconds."""
    for kind in COSTLY:
        for other, goal in GOALS.items():
            yield _beside(costs, kind, other, plan=plan, goal=goal)
    for other in EVENTS:
        yield _beside(costs, "tcp", other, plan=plan, goal=None)
    yield _alone(f"{plan}: rounds in which anything was counted wrong", len(costs.inexact), 0)


def of_connected(costs: Costs, *, plan: str) -> Iterator[Figure]:
    """Where datagrams of connected sockets are not looked at, nothing can be measured."""
    added = statistics.median(costs.added("connected", OURS))
    noise = spread(costs.rounds[NOTHING]["connected"])
    yield Figure(
        name=f"{plan}: added to a connected UDP send, median ns",
        ours=round(added),
        other=round(noise),
        other_name="spread with nothing attached",
        ratio=round(added / noise, 2),
        goal="within the spread",
        holds=added <= noise,
    )


def of_bcc(costs: Costs, *, plan: str) -> Iterator[Figure]:
    """The same beside bcc's own tools."""
    yield _beside(costs, "tcp", TCPCONNECT, plan=plan, goal=GOAL_TCPCONNECT)
    yield _beside(costs, "tcp", TCPTRACER, plan=plan, goal=None)


def _beside(costs: Costs, kind: str, other: str, *, plan: str, goal: float | None) -> Figure:
    ratio, theirs = costs.ratio(kind, OURS, other), statistics.median(costs.added(kind, other))
    return Figure(
        name=f"{plan}: added to a {COSTLY[kind]}, median ns",
        ours=round(statistics.median(costs.added(kind, OURS))),
        other=round(theirs),
        other_name=other,
        ratio=round(ratio, 2),
        goal=f"at most {goal:g} times as much" if goal else "",
        # Less than nothing is what a loaded machine makes of next to nothing: then nothing is known.
        holds=goal is None or (theirs > 0 and ratio <= goal),
    )


def of_flood(found: Flood, unexplained: int, *, plan: str, seconds: float) -> Iterator[Figure]:
    """Whether anything was lost at the highest rate."""
    rate = f"{found.calls_per_s:.0f} calls/s for {seconds:g} s"
    yield _alone(f"{plan}: calls miscounted at {rate}", found.miscounted, 0)
    yield _alone(f"{plan}: edges missing at {rate}", found.missing_edges, 0)
    yield _alone(f"{plan}: events lost at {rate}", found.lost, 0)
    yield _alone(f"{plan}: calls neither counted nor told as lost, of a full table", unexplained, 0)


def of_agent(usage: Usage, starts_s: Sequence[float], *, plan: str) -> Iterator[Figure]:
    """What the whole agent takes."""
    load = f"at {usage.busy.calls_per_s:.0f} connects/s to {DESTINATIONS} destinations"
    yield _alone(f"{plan}: share of a core, user side, {load}", round(usage.busy.cpu_share, 4), GOAL_CPU)
    yield _alone(f"{plan}: RSS of the agent, MB", round(usage.rss_mb, 1), GOAL_RSS_MB)
    start_s = round(statistics.median(starts_s), 2)
    yield _alone(f"{plan}: exec to first observation, median seconds", start_s, GOAL_START_S)
    wakeups = round(usage.idle.wakeups_per_s, 1)
    yield _alone(f"{plan}: wake-ups of an idle agent per second", wakeups, GOAL_WAKEUPS)
    calls = round(usage.system_calls_per_connection, 3) or 0.0  # not -0
    yield _alone(f"{plan}: system calls for one more connection", calls, GOAL_SYSTEM_CALLS)


def spread(values: Sequence[float]) -> float:
    """Between the first and the last quarter."""
    first, _, last = statistics.quantiles(values, n=4)
    return last - first


def _alone(name: str, ours: float, goal: float) -> Figure:
    return Figure(
        name=name,
        ours=ours,
        other=None,
        other_name="",
        ratio=None,
        goal=f"at most {goal:g}" if goal else "0",
        holds=ours <= goal,
    )
