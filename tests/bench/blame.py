"""How often the right machine is blamed, beside four simple ways of guessing: run as ``python -m tests.bench.blame``.

Every topology, fault, service, cascade and seed is played in virtual time, by the wire's own messages. Healthy
launches with noise are played as well; a verdict of failed in one of them is a false rollback.
"""

import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import networkx as nx

from dm.blame import Symptom
from dm.golden import GoldenImage
from dm.verdict import Judgement, Verdict
from tests.sim import faults
from tests.sim.systems import LAUNCH_S, System, from_topology
from tests.sim.topology import KEPT, load_all
from tests.sim.world import World

RESULT = Path("build/bench/blame.json")
DECIDE_WITHIN_S = 45.0
MOST_REPAIRS = 6
CASCADES = (0.0, 0.5, 1.0)
TOP1_GOAL, PRECISION_GOAL, RECALL_GOAL = 0.97, 0.97, 0.95


class Outcome(NamedTuple):
    """One fault's end. ``in_turn``: all that were blamed while those blamed first are repaired, for faults at once.

    ``guesses`` are the baselines' first choices.
    """

    topology: str
    fault: str
    cascade: float
    victim: str
    right: frozenset[str]
    together: bool
    verdict: Verdict
    blamed: tuple[str, ...]
    in_turn: tuple[str, ...]
    ranked: tuple[str, ...]
    decided_s: float | None
    guesses: dict[str, str]


class Job(NamedTuple):
    """A share of the work: one topology and one seed."""

    directory: Path
    number: int
    seed: int
    healthy: int


def break_one(
    system: System,
    image: GoldenImage,
    name: str,
    inject: faults.Inject,
    victim: str,
    *,
    cascade: float,
    seed: int,
) -> Outcome | None:
    """One guarded launch, one fault, and what came of it."""
    choose = random.Random(f"{name} {victim} {cascade} {seed}")
    world = system.launch(seed=seed, cascade=cascade)
    world.guard(image)
    world.run(LAUNCH_S)
    if world.history[-1][1].verdict is not Verdict.OK:
        raise RuntimeError(
            f"a healthy launch is {world.history[-1][1].verdict}: {world.history[-1][1].reasons}"
        )
    injected = inject(world, victim, choose)
    if injected is None:
        return None
    decided_s = world.until(Verdict.FAILED, within_s=DECIDE_WITHIN_S)
    judgement = world.history[-1][1]
    finding = judgement.finding
    in_turn = repair_in_turn(world) if injected.together else ()
    return Outcome(
        "",
        name,
        cascade,
        victim,
        injected.culprits,
        injected.together,
        judgement.verdict,
        tuple(suspect.name for suspect in finding.culprits),
        in_turn,
        tuple(suspect.name for suspect in (*finding.culprits, *finding.others)),
        decided_s,
        {guess: way(judgement, choose) for guess, way in BASELINES.items()},
    )


def repair_in_turn(world: World) -> tuple[str, ...]:
    """Repair whoever is blamed until nothing is; returns all that were."""
    blamed: list[str] = []
    while world.history[-1][1].verdict is Verdict.FAILED and len(blamed) < MOST_REPAIRS:
        culprits = world.culprits()
        blamed += culprits
        for name in culprits:
            world.repair(name)
        world.until(Verdict.FAILED, within_s=DECIDE_WITHIN_S)
    return tuple(dict.fromkeys(blamed))


def by_chance(judgement: Judgement, choose: random.Random) -> str:
    """Any end of a deviating edge."""
    ends = sorted({end for symptom in judgement.symptoms for end in (symptom.key.source, symptom.key.target)})
    return choose.choice(ends) if ends else ""


def most_edges(judgement: Judgement, _: random.Random) -> str:
    """Whoever touches the most deviating edges."""
    return _most(end for symptom in judgement.symptoms for end in (symptom.key.source, symptom.key.target))


def the_callee(judgement: Judgement, _: random.Random) -> str:
    """Whoever is called by the most deviating edges."""
    return _most(symptom.key.target for symptom in judgement.symptoms)


def pagerank(judgement: Judgement, _: random.Random) -> str:
    """Personalised PageRank from the callers of deviating edges along these edges."""
    graph: nx.DiGraph[str] = nx.DiGraph(
        (symptom.key.source, symptom.key.target) for symptom in judgement.symptoms
    )
    if not graph:
        return ""
    ranks = nx.pagerank(graph, personalization=dict(_sources(judgement.symptoms)))
    return str(max(sorted(ranks), key=lambda name: ranks[name]))


BASELINES: dict[str, Callable[[Judgement, random.Random], str]] = {
    "random": by_chance,
    "most deviating edges": most_edges,
    "blame the callee": the_callee,
    "personalised PageRank": pagerank,
}


def _sources(symptoms: Sequence[Symptom]) -> Counter[str]:
    return Counter(symptom.key.source for symptom in symptoms)


def _most(names: Any) -> str:
    counted = Counter(sorted(names))
    return counted.most_common(1)[0][0] if counted else ""


def healthy_launch(system: System, image: GoldenImage, *, seed: int) -> bool:
    """One launch in which nothing is broken that a rollback could mend; returns whether it was judged failed."""
    choose = random.Random(f"healthy {seed}")
    noise = choose.choice(["none", "late", "agent", "manager", "outside", "change", "restart"])
    starts_s = {}
    if noise == "late":
        # Within what was learned: every image has seen starts of up to 1.5 s, and allows a third more and the slack.
        starts_s = {choose.choice(system.vcds): choose.uniform(1.5, 5.0)}
    world = system.launch(seed=seed, starts_s=starts_s, fingerprint="f2" if noise == "change" else "f1")
    world.guard(image)
    world.run(choose.uniform(5.0, 20.0))
    victim = choose.choice(world.vcds)
    if noise == "agent":
        world.disconnect(victim)
    elif noise == "manager":
        world.new_manager()
        world.guard(image)
    elif noise == "outside":
        world.broken |= set(world.externals)
    elif noise == "change":
        world.broken.add(victim)
    elif noise == "restart":
        world.restart(victim, down_s=choose.uniform(0.5, 4.0))
    world.run(20.0)
    if noise == "agent":
        world.connect(victim)
    world.run(10.0)
    return Verdict.FAILED in world.verdicts()


def work(job: Job) -> tuple[list[Outcome], int]:
    """All faults of one topology and seed, and the number of false rollbacks among its healthy launches."""
    topology = load_all(job.directory)[job.number]
    system = from_topology(topology, seed=job.seed)
    image = system.learn(seed=1_000_000 * (job.seed + 1))
    outcomes = []
    for name, inject in {**faults.SINGLE, "two crashes": faults.two_crashes}.items():
        for cascade in CASCADES:
            for victim in system.vcds:
                outcome = break_one(system, image, name, inject, victim, cascade=cascade, seed=job.seed)
                if outcome is not None:
                    outcomes.append(outcome._replace(topology=topology.name))
    false = sum(
        healthy_launch(system, image, seed=10_000 * job.seed + number) for number in range(job.healthy)
    )
    return outcomes, false


def hit(outcome: Outcome, first: int) -> bool:
    """Whether a right answer is among the first ones."""
    return bool(outcome.right & set(outcome.ranked[:first]))


def summary(outcomes: Sequence[Outcome], *, healthy: int, false: int) -> list[dict[str, Any]]:
    """The figures."""
    single = [outcome for outcome in outcomes if not outcome.together]
    double = [outcome for outcome in outcomes if outcome.together]
    guessed = {
        name: share(outcome.guesses[name] in outcome.right for outcome in single) for name in BASELINES
    }
    best = max(guessed, key=lambda name: guessed[name])
    top1 = share(hit(outcome, 1) for outcome in single)
    found = sum(len(outcome.right & set(outcome.blamed)) for outcome in double)
    precision = found / max(1, sum(len(outcome.blamed) for outcome in double))
    recall = found / max(1, sum(len(outcome.right) for outcome in double))
    found_in_turn = sum(len(outcome.right & set(outcome.in_turn)) for outcome in double)
    precision_in_turn = found_in_turn / max(1, sum(len(outcome.in_turn) for outcome in double))
    recall_in_turn = found_in_turn / max(1, sum(len(outcome.right) for outcome in double))
    decided = [outcome.decided_s for outcome in single if outcome.decided_s is not None]
    wrong = share(not set(o.blamed) <= o.right for o in single if o.verdict is Verdict.FAILED)
    rows = [
        figure("top-1, single faults", top1, guessed[best], best, f">= {TOP1_GOAL}", holds=top1 >= TOP1_GOAL),
        figure(
            "top-3, single faults", share(hit(outcome, 3) for outcome in single), None, "", "", holds=True
        ),
        bound("set precision, two faults, at the first decision", precision, PRECISION_GOAL),
        bound("set recall, two faults, at the first decision", recall, RECALL_GOAL),
        bound("set precision, two faults, repaired in turn", precision_in_turn, PRECISION_GOAL),
        bound("set recall, two faults, repaired in turn", recall_in_turn, RECALL_GOAL),
        figure(
            "decided at all, single faults",
            share(o.decided_s is not None for o in single),
            None,
            "",
            "",
            holds=True,
        ),
        figure("decided for a wrong machine, single faults", wrong, None, "", "", holds=True),
        figure("seconds to decision, median", statistics.median(decided), None, "", "", holds=True),
        figure(f"false rollbacks in {healthy} healthy launches", false, None, "", "0", holds=false == 0),
    ]
    rows += [figure(f"top-1 of {name}", guessed[name], top1, "ours", "", holds=True) for name in BASELINES]
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


def share(hits: Any) -> float:
    """The share of true values."""
    values = [bool(value) for value in hits]
    return sum(values) / max(1, len(values))


@click.command()
@click.option(
    "--topologies", default=str(KEPT), type=click.Path(path_type=Path, exists=True), show_default=True
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--healthy", default=10_000, show_default=True, type=click.IntRange(0), help="Healthy launches in all."
)
@click.option("--misses", is_flag=True, help="Print every single fault that was blamed on somebody else.")
def main(topologies: Path, seeds: int, healthy: int, misses: bool) -> None:
    """Measure, print a table, write the result; the status tells whether all goals hold."""
    begin_s = time.monotonic()
    count = len(load_all(topologies))
    each = -(-healthy // (count * seeds))
    jobs = [Job(topologies, number, seed, each) for seed in range(seeds) for number in range(count)]
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(work, jobs))
    outcomes = [outcome for done, _ in results for outcome in done]
    rows = summary(outcomes, healthy=each * len(jobs), false=sum(false for _, false in results))
    for row in rows:
        click.echo(
            f"{row['name']:<52} {row['ours']:>8} {row['goal']:>8}  {'ok' if row['holds'] else 'MISSED'}"
        )
    for fault in sorted({outcome.fault for outcome in outcomes}):
        of_fault = [outcome for outcome in outcomes if outcome.fault == fault]
        decided = share(outcome.decided_s is not None for outcome in of_fault)
        right = share(hit(outcome, 1) for outcome in of_fault)
        click.echo(f"  {fault:<16} {len(of_fault):>5} runs, top-1 {right:.3f}, decided {decided:.3f}")
    if misses:
        for outcome in outcomes:
            if not (outcome.right == set(outcome.in_turn) if outcome.together else hit(outcome, 1)):
                click.echo(f"{outcome}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": rows}, indent=2) + "\n")
    click.echo(f"{len(outcomes)} faults in {time.monotonic() - begin_s:.0f} s")
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


if __name__ == "__main__":
    main()
