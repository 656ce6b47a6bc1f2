"""Every fault of the demo, several times in a row: run as ``python -m tests.bench.faults RUNS``.

Each run is a whole ``make demo``. The first one that does not end as it should ends the series.
"""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from tests.demo import FAULTS

RESULT = Path("build/bench/faults.json")
ROLLBACK = Path("build/bench/rollback.json")
RUN_S = 300
DECIDE_S = 5.0
ADDED_S = 1.0
CONFIRM_S = 3.0
REFUSED = ("crash", "corrupt")
REVERTED = re.compile(r"running again ([0-9.]+) s after the decision")


class Run(NamedTuple):
    """One demo's end."""

    status: int
    summary: dict[str, Any]
    reverted_s: float | None


def once(fault: str) -> Run:
    """One demo. Its story is printed when it did not end as it should."""
    command = [sys.executable, "-m", "tests.demo", "--fault", fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
        return Run(done.returncode, {}, None)
    found = REVERTED.search(done.stdout)
    return Run(0, json.loads(done.stdout.splitlines()[-1]), float(found[1]) if found else None)


def figures(fault: str, runs: list[Run], *, alone_s: float) -> list[dict[str, Any]]:
    """What is kept of a fault's runs: the worst, beside the floor that the settings or podman put below it."""
    detected = [run.summary["detect_s"] for run in runs if run.summary["detect_s"] is not None]
    reverted = [run.reverted_s for run in runs if run.reverted_s is not None]
    if not detected:
        return []
    bound = fault in REFUSED
    return [
        {
            "name": f"{fault}: fault to decision, worst of {len(runs)}, seconds",
            "ours": max(detected),
            "median": statistics.median(detected),
            "other": CONFIRM_S,
            "other_name": "the confirmation window alone",
            "ratio": round(max(detected) / CONFIRM_S, 2),
            "goal": f"at most {DECIDE_S:g} s" if bound else "none: the caller is not refused",
            "holds": max(detected) <= DECIDE_S if bound else True,
        },
        {
            "name": f"{fault}: decision to running again, evidence included, worst of {len(runs)}, seconds",
            "ours": max(reverted),
            "median": statistics.median(reverted),
            "other": alone_s,
            "other_name": "podman alone, median of bench-rollback",
            "ratio": round(statistics.median(reverted) / alone_s, 2),
            "goal": f"at most {ADDED_S:g} s more",
            "holds": max(reverted) <= alone_s + ADDED_S,
        },
    ]


@click.command()
@click.argument("count", type=click.IntRange(1), default=10)
def main(count: int) -> None:
    """Run every fault COUNT times in a row."""
    alone_s = float(json.loads(ROLLBACK.read_text())["figures"][0]["other"])
    kept: list[dict[str, Any]] = []
    for fault in (*FAULTS, "none"):
        runs: list[Run] = []
        for number in range(1, count + 1):
            run = once(fault)
            click.echo(f"{fault} {number}/{count}: {json.dumps(run.summary)} reverted in {run.reverted_s}")
            if run.status:
                sys.exit(1)
            runs.append(run)
        kept += figures(fault, runs, alone_s=alone_s)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": kept}, indent=2) + "\n")
    for figure in kept:
        click.echo(
            f"{figure['name']}: {figure['ours']} (median {figure['median']}); goal held: {figure['holds']}"
        )
    sys.exit(0 if all(figure["holds"] for figure in kept) else 1)


if __name__ == "__main__":
    main()
