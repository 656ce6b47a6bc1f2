"""What going back to a memory snapshot costs beside ``virsh snapshot-revert``: ``python -m tests.bench.revert``.

One running guest is taken back by the driver and by virsh in turn, and then one and three in turn by the driver. The
order alternates, and what is kept is the median of the rounds' own ratios, so that a change of the machine's load meets
both sides. The first round is not counted.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from idm import manifest
from idm.driver import DriverError
from idm.drivers.libvirt import LibvirtDriver
from idm.drivers.together import together
from idm.settings import Libvirt
from tests.lab.libvirt import LibvirtLab
from tests.vm.deployed import eventually

# A single way back takes now half and now twice as long as the one before.
ROUNDS = 25
GOAL_RATIO = 1.10
GOAL_THREE = 1.3
RESULT = Path("build/bench/revert.json")
TAG = "good"
GUESTS = {"one": "198.18.0.71", "two": "198.18.0.72", "three": "198.18.0.73"}

Figure = dict[str, str | float | bool]

STACK = """
[stack]
name = "bench"
driver = "libvirt"
[network]
subnet = "198.18.0.0/24"
bridge = "br0"
"""
VCD = """
[vcd.{name}]
domain = "{name}"
address = "{address}"
"""


def main() -> int:
    """Measure, print lines, write the result; the status tells whether the goals hold."""
    with LibvirtLab() as lab, TemporaryDirectory() as scratch:
        lab.guests(GUESTS)
        path = Path(scratch, "stack.toml")
        path.write_text(
            STACK + "".join(VCD.format(name=name, address=address) for name, address in GUESTS.items())
        )
        stack = manifest.load(path)
        host = Libvirt(uri=lab.uri, directory=str(lab.directory / "vm"))
        with closing(LibvirtDriver(stack, host)) as driver:
            driver.prepare()
            for vcd in stack.vcd.values():
                driver.define(vcd)
            driver.snapshot(list(GUESTS), tag=TAG, golden="bench")
            figures = _measure(driver, lab)
            driver.remove()
    return _report(figures)


def _measure(driver: LibvirtDriver, lab: LibvirtLab) -> list[Figure]:
    one = partial(driver.restore, "one", tag=TAG)
    beside = _in_turn(driver, one, partial(_by_hand, lab))
    several = _in_turn(driver, lambda: together(lambda vcd: driver.restore(vcd, tag=TAG), GUESTS), one)
    return [
        _figure("one VM taken back", *beside, other="virsh snapshot-revert", goal=GOAL_RATIO),
        _figure("three VMs taken back together", *several, other="one VM", goal=GOAL_THREE),
    ]


def _in_turn(
    driver: LibvirtDriver, way: Callable[[], None], other: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """The seconds that each took in each round."""
    took: dict[Callable[[], None], list[float]] = {way: [], other: []}
    ways = [way, other]
    for _ in range(1 + ROUNDS):
        for restore in ways:
            # What guests do right after their way back would slow the next one down.
            for vcd in GUESTS:
                eventually(partial(_answers, driver, vcd))
            began = time.monotonic()
            restore()
            took[restore].append(time.monotonic() - began)
        ways.reverse()
    return took[way][1:], took[other][1:]


def _answers(driver: LibvirtDriver, vcd: str) -> bool:
    try:
        return driver.execute(vcd, ["true"], timeout_s=20).status == 0
    except DriverError:
        return False


def _by_hand(lab: LibvirtLab) -> None:
    command = ["virsh", "--quiet", "--connect", lab.uri, "snapshot-revert", "one", f"stackmend-{TAG}"]
    subprocess.run(command, check=True, capture_output=True)


def _report(figures: list[Figure]) -> int:
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": figures}, indent=2) + "\n")
    for figure in figures:
        sys.stdout.write(
            f"{figure['name']}: {figure['ours']}; {figure['other_name']}: {figure['other']}; "
            f"ratio {figure['ratio']}, goal {figure['goal']}; goal held: {figure['holds']}\n"
        )
    return 0 if all(figure["holds"] for figure in figures) else 1


def _figure(name: str, ours: list[float], others: list[float], *, other: str, goal: float) -> Figure:
    ratio = statistics.median(our / their for our, their in zip(ours, others, strict=True))
    return {
        "name": f"{name}, median seconds",
        "ours": round(statistics.median(ours), 3),
        "other": round(statistics.median(others), 3),
        "other_name": other,
        "ratio": round(ratio, 2),
        "goal": f"at most {goal:g} times as long",
        "holds": ratio <= goal,
    }


if __name__ == "__main__":
    sys.exit(main())
