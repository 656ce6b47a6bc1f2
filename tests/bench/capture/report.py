"""Prints what was measured, and writes it for the README's table."""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.capture.cost import KINDS, NOTHING, Costs
from tests.bench.capture.figures import Figure


def report(result: Path, found: Sequence[Figure]) -> int:
    """Write and print the figures; 1 unless all goals hold."""
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"figures": found}, indent=2) + "\n")
    for figure in found:
        beside = f"; {figure['other_name']}: {figure['other']:g}" if figure["other"] is not None else ""
        goal = f"; {figure['goal']}: {figure['holds']}" if figure["goal"] else ""
        sys.stdout.write(f"{figure['name']}: {figure['ours']:g}{beside}{goal}\n")
    return 0 if all(figure["holds"] for figure in found) else 1


def show(costs: Costs) -> None:
    """Print medians and spreads."""
    for kind in KINDS:
        _show_row(kind, NOTHING, costs.rounds[NOTHING][kind])
        for rival in costs.rounds:
            if rival != NOTHING:
                _show_row(kind, f"added by {rival}", costs.added(kind, rival))
    for one in costs.inexact:
        sys.stdout.write(one + "\n")


def _show_row(kind: str, name: str, values: Sequence[float]) -> None:
    first, median, last = statistics.quantiles(values, n=4)
    sys.stdout.write(f"{kind}, {name}: median {median:.0f} ns, quarters {first:.0f} to {last:.0f}\n")
