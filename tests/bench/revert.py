"""What going back to a memory snapshot costs beside ``virsh snapshot-revert``: ``python -m tests.bench.revert``.

Each round takes one running guest back, once by the driver and once by virsh, and then three by the driver together.
The order alternates, and what is kept is the median of the rounds' own ratios, so that a change of the machine's load
meets both sides. The first round is not counted.
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

ROUNDS = 15
GOAL_RATIO = 1.10
GOAL_THREE = 1.3
RESULT = Path("build/bench/revert.json")
TAG = "good"
GUESTS = {"one": "198.18.0.71", "two": "198.18.0.72", "three": "198.18.0.73"}

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
            one, three, virsh = _measure(driver, lab)
            driver.remove()
    return _report(one, three, virsh)


def _measure(driver: LibvirtDriver, lab: LibvirtLab) -> tuple[list[float], list[float], list[float]]:
    """The seconds of each round: one guest and three guests by the driver, and one by virsh."""
    one: list[float] = []
    three: list[float] = []
    virsh: list[float] = []
    ways: list[tuple[list[float], Callable[[], None]]] = [
        (one, lambda: driver.restore("one", tag=TAG)),
        (virsh, lambda: _by_hand(lab)),
        (three, lambda: together(lambda vcd: driver.restore(vcd, tag=TAG), GUESTS)),
    ]
    for _ in range(1 + ROUNDS):
        for seconds, restore in ways:
            # What a guest does right after its way back would slow the next one down.
            for vcd in GUESTS:
                eventually(partial(_answers, driver, vcd))
            began = time.monotonic()
            restore()
            seconds.append(time.monotonic() - began)
        ways.reverse()
    return one[1:], three[1:], virsh[1:]


def _answers(driver: LibvirtDriver, vcd: str) -> bool:
    try:
        return driver.execute(vcd, ["true"], timeout_s=20).status == 0
    except DriverError:
        return False


def _by_hand(lab: LibvirtLab) -> None:
    command = ["virsh", "--quiet", "--connect", lab.uri, "snapshot-revert", "one", f"stackmend-{TAG}"]
    subprocess.run(command, check=True, capture_output=True)


def _report(one: list[float], three: list[float], virsh: list[float]) -> int:
    figures = [
        _figure("one VM taken back", one, virsh, other="virsh snapshot-revert", goal=GOAL_RATIO),
        _figure("three VMs taken back together", three, one, other="one VM", goal=GOAL_THREE),
    ]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": figures}, indent=2) + "\n")
    for figure in figures:
        sys.stdout.write(
            f"{figure['name']}: {figure['ours']}; {figure['other_name']}: {figure['other']}; "
            f"ratio {figure['ratio']}, goal {figure['goal']}; goal held: {figure['holds']}\n"
        )
    return 0 if all(figure["holds"] for figure in figures) else 1


def _figure(
    name: str, ours: list[float], others: list[float], *, other: str, goal: float
) -> dict[str, str | float | bool]:
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
