"""Writes the figures of build/bench into the README's table: run as ``python -m tests.bench.table``."""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path("build/bench")
README = Path("README.md")
COMMANDS = {
    "faults": "make soak",
    "faults-libvirt": "make soak DRIVER=libvirt",
    "rollback": "make bench-rollback",
    "blame": "make bench-blame",
    "graph": "make bench-graph",
    "revert": "make bench-revert",
    "capture": "make bench-capture",
    "capture-guest": "make bench-capture-guest",
}
BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)


def rows(name: str, figures: list[dict[str, Any]]) -> list[str]:
    """A row for each figure with a goal; the others are in what the benchmark prints itself."""
    lines = []
    for figure in figures:
        if not figure["goal"]:
            continue
        beside = f"{figure['other']:g} ({figure['other_name']})" if figure["other"] is not None else ""
        goal = f"{figure['goal']}{'' if figure['holds'] else ' (missed)'}"
        lines.append(f"| {figure['name']} | {figure['ours']:g} | {beside} | {goal} | `{COMMANDS[name]}` |")
    return lines


def main() -> None:
    """Replace the table with what the results say; results that are not there leave no row."""
    lines = ["| what | ours | beside | goal | command |", "|---|---|---|---|---|"]
    for name in COMMANDS:
        path = RESULTS / f"{name}.json"
        if path.exists():
            lines += rows(name, json.loads(path.read_text())["figures"])
    table = "\n".join(lines)
    README.write_text(BLOCK.sub(lambda found: f"{found[1]}{table}\n{found[2]}", README.read_text()))


if __name__ == "__main__":
    main()
