"""Measures on the running kernel, prints, and writes ``build/bench/capture.json``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.capture import agent, figures, flood
from tests.bench.capture.compare import compare
from tests.bench.capture.cost import Costs
from tests.bench.capture.figures import Figure
from tests.bench.capture.load import Lab, lab
from tests.bench.capture.report import report, show
from tests.bench.capture.rivals import compile_empty

RESULT = Path("build/bench/capture.json")


def main() -> int:
    """The status tells whether all goals hold."""
    arguments = _arguments()
    with lab() as made:
        found = list(_figures(made, arguments))
    return report(RESULT, found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", default="cgroup", help="the capture's plan")
    parser.add_argument("--rounds", type=int, default=20, help="how often each rival has its turn")
    parser.add_argument("--seconds", type=int, default=60, help="how long all cores call; 0 for not at all")
    parser.add_argument(
        "--window", type=int, default=20, help="seconds for which an agent is watched; 0 for none"
    )
    return parser.parse_args()


def _figures(made: Lab, arguments: argparse.Namespace) -> Iterator[Figure]:
    plan = arguments.plan
    costs = _costs(made, plan, arguments.rounds)
    show(costs)
    yield from figures.of_costs(costs, plan=plan)
    yield from figures.of_connected(costs, plan=plan)
    if arguments.seconds:
        found = flood.flood(made, plan=plan, seconds=arguments.seconds)
        unexplained = flood.overflow(made, plan=plan)
        yield from figures.of_flood(found, unexplained, plan=plan, seconds=arguments.seconds)
    if arguments.window:
        starts_s = agent.starts_s(made, plan=plan)
        usage = agent.usage(made, plan=plan, seconds=arguments.window)
        yield from figures.of_agent(usage, starts_s, plan=plan)


def _costs(made: Lab, plan: str, rounds: int) -> Costs:
    with TemporaryDirectory() as scratch:
        empty = Path(scratch, "empty.bpf.o")
        compile_empty(empty)
        return compare(made, plan=plan, empty=empty, rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
