"""How often the right machine is blamed, beside four simple ways of guessing: run as ``python -m tests.bench.blame``.

Every topology, fault, service, cascade and seed is played in virtual time, by the wire's own messages. Healthy
launches with noise are played as well; a verdict of failed in one of them is a false rollback.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click

from dm.verdict import Verdict
from tests.bench.baselines import BASELINES
from tests.sim import faults
from tests.sim.generate import generate
from tests.sim.systems import from_topology
from tests.sim.topology import KEPT, Topology, load_all
from tests.sim.trial import Ground, Outcome, break_one, healthy_launch

RESULT = Path("build/bench/blame.json")
CASCADES = (0.0, 0.5, 1.0)
TOP1_GOAL, PRECISION_GOAL, RECALL_GOAL = 0.97, 0.97, 0.95
REFUSED_GOAL_S = 5.0
LOOK_S = 0.25
RANDOM_SERVICES = 68
CHANCE = 0.5
"""In every other healthy launch so many of the calls come at random."""


class Job(NamedTuple):
    """A share of the work: one topology, seed and cascade, and some healthy launches."""

    topology: Topology
    seed: int
    cascade: float
    every: int
    healthy: range


class Played(NamedTuple):
    """One fault's outcome, whose topology it was, and the baselines' first choices."""

    topology: str
    seed: int
    outcome: Outcome
    guesses: dict[str, str]


class Shift(NamedTuple):
    """What came of a job: outcomes, how many faults nobody could see, how many healthy launches failed, or hung."""

    played: list[Played]
    unseen: int
    false: int
    unwell: int


def work(job: Job) -> Shift:
    """Play it."""
    ground = Ground(from_topology(job.topology, seed=job.seed), seed=job.seed)
    played: list[Played] = []
    unseen = 0
    for name, fault in faults.ALL.items():
        for victim in ground.victims(fault)[job.seed % job.every :: job.every]:
            outcome = break_one(ground, name, fault, victim, cascade=job.cascade)
            if outcome is None:
                unseen += 1
                continue
            choose = random.Random(f"{name} {victim}")
            guesses = {guess: way(outcome.judgement, choose) for guess, way in BASELINES.items()}
            played.append(Played(job.topology.name, job.seed, outcome, guesses))
    lively = Ground(from_topology(job.topology, seed=job.seed, chance=CHANCE), seed=job.seed)
    false = sum(healthy_launch((ground, lively)[seed % 2], seed=seed) for seed in job.healthy)
    return Shift(played, unseen, false, len(ground.unwell))


def hit(outcome: Outcome, first: int) -> bool:
    """Whether a right answer is among the first ones."""
    return bool(outcome.right & set(outcome.ranked[:first]))


def summary(played: Sequence[Played], *, healthy: int, false: int, unwell: int) -> list[dict[str, Any]]:
    """The figures."""
    single = [one for one in played if one.outcome.fault in faults.SINGLE]
    outside = [one.outcome for one in played if one.outcome.fault in faults.OUTSIDE]
    return [
        *single_figures(single),
        *(row for name in faults.TOGETHER for row in together_figures(name, played)),
        *time_figures([one.outcome for one in single]),
        figure("outages outside that are named", share(hit(o, 1) for o in outside), None, "", "", holds=True),
        none("outages outside that end in a rollback", sum(o.decided_s is not None for o in outside)),
        none(f"false rollbacks in {healthy} healthy launches", false),
        none("healthy launches that faults were played on and that were not found whole", unwell),
    ]


def single_figures(single: Sequence[Played]) -> list[dict[str, Any]]:
    """One fault: how often the right one is named first."""
    outcomes = [one.outcome for one in single]
    failed = [outcome for outcome in outcomes if outcome.decided_s is not None]
    top1 = share(hit(outcome, 1) for outcome in outcomes)
    guessed = {name: share(one.guesses[name] in one.outcome.right for one in single) for name in BASELINES}
    best = max(guessed, key=lambda name: guessed[name])
    wrong = share(not set(outcome.blamed) <= outcome.right for outcome in failed)
    return [
        figure("top-1, single faults", top1, guessed[best], best, f">= {TOP1_GOAL}", holds=top1 >= TOP1_GOAL),
        figure("top-3, single faults", share(hit(o, 3) for o in outcomes), None, "", "", holds=True),
        figure("decided at all, single faults", len(failed) / len(outcomes), None, "", "", holds=True),
        figure("decided for a wrong machine, single faults", wrong, None, "", "", holds=True),
        *(figure(f"top-1 of {name}", guessed[name], top1, "ours", "", holds=True) for name in BASELINES),
    ]


def together_figures(name: str, played: Sequence[Played]) -> list[dict[str, Any]]:
    """Two faults at once: who is named at the first decision, and who is until the stack is whole.

    Two crashes show at once. Of two faults of any kinds one may show only after the other was decided for, as a hang
    does by its rhythm, hide behind it, or stay below the thresholds: what counts is who is named in the end, and that
    nobody else is taken back.
    """
    outcomes = [one.outcome for one in played if one.outcome.fault == name]
    first = precision_and_recall((outcome.right, outcome.blamed) for outcome in outcomes)
    in_turn = precision_and_recall((outcome.right, outcome.named) for outcome in outcomes)
    taken_back = precision_and_recall((outcome.right, outcome.in_turn) for outcome in outcomes)
    what = f"{name}, at the first decision"
    rows = [
        figure(f"set precision, {what}", first[0], None, "", "", holds=True),
        figure(f"set recall, {what}", first[1], None, "", "", holds=True),
    ]
    if name == "two crashes":
        rows = [
            bound(f"set precision, {what}", first[0], PRECISION_GOAL),
            bound(f"set recall, {what}", first[1], RECALL_GOAL),
        ]
    return [
        *rows,
        bound(f"set precision, {name}, repaired in turn", in_turn[0], PRECISION_GOAL),
        bound(f"set recall, {name}, repaired in turn", in_turn[1], RECALL_GOAL),
        bound(f"set precision, {name}, taken back in turn", taken_back[0], PRECISION_GOAL),
        figure(f"set recall, {name}, taken back in turn", taken_back[1], None, "", "", holds=True),
    ]


def precision_and_recall(sets: Iterable[tuple[frozenset[str], Collection[str]]]) -> tuple[float, float]:
    """Of who was blamed, over all of these pairs of who is right and who was blamed."""
    pairs = list(sets)
    found = sum(len(right & set(blamed)) for right, blamed in pairs)
    return (
        found / max(1, sum(len(blamed) for _, blamed in pairs)),
        found / max(1, sum(len(right) for right, _ in pairs)),
    )


def time_figures(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """How long it takes to decide, and whether that is in time."""
    decided = [outcome.decided_s for outcome in outcomes if outcome.decided_s is not None]
    refused = [
        outcome.decided_s - outcome.refused_s
        for outcome in outcomes
        if outcome.fault in ("crash", "wrong port") and outcome.decided_s and outcome.refused_s is not None
    ]
    rows = [
        figure("seconds to decision, median", statistics.median(decided), None, "", "", holds=True),
        at_most("seconds from the first refusal to the decision, 99 % are below", percentile(refused, 0.99)),
        at_most("seconds from the first refusal to the decision, at most", max(refused, default=0.0)),
    ]
    for name, what in (
        ("start beyond its bound", "launches that are not whole, decided later than deadline + confirmation"),
        ("hang", "hangs decided later than the learned rhythm + 5 s"),
    ):
        after = [o.decided_s - o.bound_s for o in outcomes if o.fault == name and o.decided_s and o.bound_s]
        rows.append(none(what, sum(after_s > LOOK_S for after_s in after)))
        rows.append(
            figure(
                f"seconds after that time, {name}, at most", max(after, default=0.0), None, "", "", holds=True
            )
        )
    return rows


def figure(
    name: str, ours: float, other: float | None, other_name: str, goal: str, *, holds: bool
) -> dict[str, Any]:
    """One row of the result."""
    ratio = round(ours / other, 2) if other else None
    rounded = round(other, 4) if other is not None else None
    return {
        "name": name, "ours": round(ours, 4), "other": rounded, "other_name": other_name, "ratio": ratio, "goal": goal,
        "holds": holds,
    }  # fmt: skip


def bound(name: str, ours: float, goal: float) -> dict[str, Any]:
    """A row that has to reach a goal."""
    return figure(name, ours, None, "", f">= {goal}", holds=ours >= goal)


def at_most(name: str, seconds: float) -> dict[str, Any]:
    """A row of what follows a refusal."""
    return figure(name, seconds, None, "", f"<= {REFUSED_GOAL_S:g}", holds=seconds <= REFUSED_GOAL_S)


def none(name: str, count: int) -> dict[str, Any]:
    """A row of what must not happen."""
    return figure(name, count, None, "", "0", holds=count == 0)


def share(hits: Iterable[bool]) -> float:
    """The share of true values."""
    values = list(hits)
    return sum(values) / max(1, len(values))


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which that part of them is."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else 0.0


def missed(one: Played) -> bool:
    """Whether somebody else was blamed, or not all."""
    outcome = one.outcome
    return set(outcome.blamed) != outcome.right if outcome.together else not hit(outcome, 1)


def told(one: Played) -> str:
    """One fault in a line."""
    outcome = one.outcome
    took = f"after {outcome.decided_s:.2f} s" if outcome.decided_s is not None else "undecided"
    return (
        f"  {one.topology}, seed {one.seed}, {outcome.fault} of {outcome.victim}, cascade {outcome.cascade}: blamed "
        f"{', '.join(outcome.blamed) or 'nobody'} for {', '.join(sorted(outcome.right))}, {took}, "
        f"{outcome.judgement.verdict}"
    )


@click.command()
@click.option(
    "--topologies", default=str(KEPT), type=click.Path(path_type=Path, exists=True), show_default=True
)
@click.option("--random", "made", default=0, show_default=True, help="So many random topologies instead.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--every",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Break only every so-many-th service.",
)
@click.option(
    "--healthy", default=10_000, show_default=True, type=click.IntRange(0), help="Healthy launches in all."
)
@click.option("--misses", is_flag=True, help="Print every fault for which others were blamed.")
def main(topologies: Path, *, made: int, seeds: int, every: int, healthy: int, misses: bool) -> None:
    """Measure, print a table, write the result; the status tells whether all goals hold."""
    begin_s = time.monotonic()
    systems = [generate(number, services=RANDOM_SERVICES) for number in range(made)] or load_all(topologies)
    places = [(system, seed, cascade) for system in systems for seed in range(seeds) for cascade in CASCADES]
    each = -(-healthy // len(places))
    jobs = [
        Job(system, seed, cascade, every, range(number * each, (number + 1) * each))
        for number, (system, seed, cascade) in enumerate(places)
    ]
    # The largest first, so that none of them is left for the end.
    jobs.sort(key=lambda job: -len(job.topology.edges))
    with ProcessPoolExecutor() as pool:
        shifts = list(pool.map(work, jobs))
    played = [one for shift in shifts for one in shift.played]
    rows = summary(
        played,
        healthy=each * len(jobs),
        false=sum(shift.false for shift in shifts),
        unwell=sum(shift.unwell for shift in shifts),
    )
    for row in rows:
        click.echo(
            f"{row['name']:<76} {row['ours']:>8} {row['goal']:>8}  {'ok' if row['holds'] else 'MISSED'}"
        )
    for fault in faults.ALL:
        of_fault = [one.outcome for one in played if one.outcome.fault == fault]
        decided = share(outcome.judgement.verdict is Verdict.FAILED for outcome in of_fault)
        right = share(hit(outcome, 1) for outcome in of_fault)
        click.echo(f"  {fault:<26} {len(of_fault):>5} runs, top-1 {right:.3f}, decided {decided:.3f}")
    for one in played if misses else ():
        if missed(one):
            click.echo(told(one))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": rows}, indent=2) + "\n")
    unseen = sum(shift.unseen for shift in shifts)
    click.echo(
        f"{len(played)} faults in {time.monotonic() - begin_s:.0f} s; {unseen} more would show in no connection"
    )
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


if __name__ == "__main__":
    main()
