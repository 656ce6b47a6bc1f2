"""Runs inside a guest: the costs of its kernel's plan and of what else there is to see calls with, as JSON.

    python -m tests.bench.capture.in_guest PLAN ROUNDS GENERATOR EMPTY [TOOL…]

``GENERATOR`` and ``EMPTY`` were compiled outside, where there is a compiler; the tools are bcc's, by their names here.
"""

import dataclasses
import json
import sys
from pathlib import Path

from tests.bench.capture.compare import compare
from tests.bench.capture.load import lab


def main() -> None:
    """Measure, and print."""
    plan, rounds, generator, empty, *tools = sys.argv[1:]
    with lab(Path(generator)) as made:
        costs = compare(made, plan=plan, empty=Path(empty), rounds=int(rounds), bcc=tuple(tools))
    print(json.dumps(dataclasses.asdict(costs)))  # noqa: T201 it is a program


if __name__ == "__main__":
    main()
