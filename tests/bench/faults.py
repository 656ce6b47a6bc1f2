"""Every fault of the demo, several times in a row: run as ``python -m tests.bench.faults --driver DRIVER RUNS``.

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

from tests.demo import FAULTS, GUEST_FAULTS

RUN_S = 900
DECIDE_S = 5.0
ADDED_S = 1.0
CONFIRM_S = 3.0
# Faults whose callers are refused; where instructions are emulated, they are too late to hold them to a goal.
REFUSED = ("crash", "corrupt")
REVERTED = re.compile(r"running again ([0-9.]+) s after the decision")


class Way(NamedTuple):
    """What is run, beside which measurement of the engine alone, and where the result goes."""

    where: str
    faults: tuple[str, ...]
    bounded: tuple[str, ...]
    alone: Path
    alone_name: str
    result: Path


BENCH = Path("build/bench")
WAYS = {
    "podman": Way(
        "",
        (*FAULTS, "none"),
        REFUSED,
        BENCH / "rollback.json",
        "podman alone, median of bench-rollback",
        BENCH / "faults.json",
    ),
    "libvirt": Way(
        " on VMs",
        (*GUEST_FAULTS, "none"),
        (),
        BENCH / "revert.json",
        "virsh snapshot-revert alone, median of bench-revert",
        BENCH / "faults-libvirt.json",
    ),
}


class Run(NamedTuple):
    """One demo's end."""

    status: int
    summary: dict[str, Any]
    reverted_s: float | None


def once(fault: str, driver: str) -> Run:
    """One demo. Its story is printed when it did not end as it should."""
    command = [sys.executable, "-m", "tests.demo", "--driver", driver, "--fault", fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
        return Run(done.returncode, {}, None)
    found = REVERTED.search(done.stdout)
    return Run(0, json.loads(done.stdout.splitlines()[-1]), float(found[1]) if found else None)


def figures(fault: str, runs: list[Run], way: Way) -> list[dict[str, Any]]:
    """What is kept of a fault's runs: the worst, beside the floor that the settings or the engine put below it."""
    alone_s = float(json.loads(way.alone.read_text())["figures"][0]["other"])
    detected = [run.summary["detect_s"] for run in runs if run.summary["detect_s"] is not None]
    reverted = [run.reverted_s for run in runs if run.reverted_s is not None]
    if not detected:
        return []
    bound = fault in way.bounded
    return [
        {
            "name": f"{fault}{way.where}: fault to decision, worst of {len(runs)}, seconds",
            "ours": max(detected),
            "median": statistics.median(detected),
            "other": CONFIRM_S,
            "other_name": "the confirmation window alone",
            "ratio": round(max(detected) / CONFIRM_S, 2),
            "goal": f"at most {DECIDE_S:g} s" if bound else "none",
            "holds": max(detected) <= DECIDE_S if bound else True,
        },
        {
            "name": f"{fault}{way.where}: decision to running again, evidence included, worst of {len(runs)}, seconds",
            "ours": max(reverted),
            "median": statistics.median(reverted),
            "other": alone_s,
            "other_name": way.alone_name,
            "ratio": round(statistics.median(reverted) / alone_s, 2),
            "goal": f"at most {ADDED_S:g} s more",
            "holds": max(reverted) <= alone_s + ADDED_S,
        },
    ]


@click.command()
@click.option("--driver", type=click.Choice(list(WAYS)), default="podman")
@click.argument("count", type=click.IntRange(1), default=10)
def main(driver: str, count: int) -> None:
    """Run every fault COUNT times in a row."""
    way = WAYS[driver]
    kept: list[dict[str, Any]] = []
    for fault in way.faults:
        runs: list[Run] = []
        for number in range(1, count + 1):
            run = once(fault, driver)
            click.echo(f"{fault} {number}/{count}: {json.dumps(run.summary)} reverted in {run.reverted_s}")
            if run.status:
                sys.exit(1)
            runs.append(run)
        kept += figures(fault, runs, way)
    way.result.parent.mkdir(parents=True, exist_ok=True)
    way.result.write_text(json.dumps({"figures": kept}, indent=2) + "\n")
    for figure in kept:
        click.echo(
            f"{figure['name']}: {figure['ours']} (median {figure['median']}); goal held: {figure['holds']}"
        )
    sys.exit(0 if all(figure["holds"] for figure in kept) else 1)


if __name__ == "__main__":
    main()
