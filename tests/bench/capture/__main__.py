"""Measures on the running kernel, prints, and writes ``build/bench/capture.json``."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.bench.capture import agent, figures, flood, rivals
from tests.bench.capture.cost import KINDS, NOTHING, Costs, measure
from tests.bench.capture.figures import BPFTRACE, FLOOR, OURS, Figure
from tests.bench.capture.load import Lab, lab

RESULT = Path("build/bench/capture.json")


def main() -> int:
    """The status tells whether all goals hold."""
    arguments = _arguments()
    with lab() as made:
        found = list(_figures(made, arguments))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": found}, indent=2) + "\n")
    for figure in found:
        beside = f"; {figure['other_name']}: {figure['other']:g}" if figure["other"] is not None else ""
        sys.stdout.write(
            f"{figure['name']}: {figure['ours']:g}{beside}; {figure['goal']}: {figure['holds']}\n"
        )
    return 0 if all(figure["holds"] for figure in found) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", default="cgroup", help="the capture's plan")
    parser.add_argument("--rounds", type=int, default=20, help="how often each rival has its turn")
    parser.add_argument("--seconds", type=int, default=60, help="how long all cores call")
    parser.add_argument("--window", type=int, default=20, help="seconds for which an agent is watched")
    return parser.parse_args()


def _figures(made: Lab, arguments: argparse.Namespace) -> Iterator[Figure]:
    plan = arguments.plan
    costs = _costs(made, plan, arguments.rounds)
    _print_costs(costs)
    yield from figures.of_costs(costs, plan=plan)
    found = flood.flood(made, plan=plan, seconds=arguments.seconds)
    yield from figures.of_flood(found, plan=plan, seconds=arguments.seconds)
    starts_s = agent.starts_s(made, plan=plan)
    usage = agent.usage(made, plan=plan, seconds=arguments.window)
    yield from figures.of_agent(usage, starts_s, plan=plan)


def _costs(made: Lab, plan: str, rounds: int) -> Costs:
    with made.generator() as generator:
        return measure(
            generator,
            {
                NOTHING: rivals.nothing,
                FLOOR: partial(rivals.floor, plan),
                OURS: partial(rivals.ours, plan),
                BPFTRACE: rivals.bpftrace,
            },
            rounds=rounds,
        )


def _print_costs(costs: Costs) -> None:
    for kind in KINDS:
        _print_row(kind, NOTHING, costs.rounds[kind, NOTHING])
        for rival in (FLOOR, OURS, BPFTRACE):
            _print_row(kind, f"added by {rival}", costs.added(kind, rival))
    for one in costs.inexact:
        sys.stdout.write(one + "\n")


def _print_row(kind: str, name: str, values: Sequence[float]) -> None:
    first, median, last = statistics.quantiles(values, n=4)
    sys.stdout.write(f"{kind}, {name}: median {median:.0f} ns, quarters {first:.0f} to {last:.0f}\n")


if __name__ == "__main__":
    sys.exit(main())
