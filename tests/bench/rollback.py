"""What a rollback costs beside podman's own commands for the same: run as ``python -m tests.bench.rollback``.

Each round breaks a container and takes it back to the same image, once by the driver and once by podman's command
line (rm, then run). The order alternates, so that a change of the machine's load meets both.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from idm import manifest, settings
from idm.drivers.podman import PodmanDriver
from tests.lab.podman import PodmanLab
from tests.lab.tiny import TINY

ROUNDS = 12
GOAL_ADDED_S = 1.0
RESULT = Path("build/bench/rollback.json")
TAG = "good"
RESTORED = "localhost/stackmend/bench/one:good"
ADDRESS = "198.18.68.11"
COMMAND = ["/bin/sh", "-c", "while :; do sleep 1; done"]

STACK = f"""
[stack]
name = "bench"
[network]
subnet = "198.18.68.0/24"
[vcd.one]
image = "IMAGE"
address = "{ADDRESS}"
command = {json.dumps(COMMAND)}
"""


def main() -> int:
    """Measure, print a line, write the result; the status tells whether the goal holds."""
    with PodmanLab() as lab, TemporaryDirectory() as scratch:
        path = Path(scratch, "stack.toml")
        path.write_text(STACK.replace("IMAGE", lab.image(TINY)))
        stack = manifest.load(path)
        driver = PodmanDriver(stack, settings.load(lab.settings).podman)
        try:
            driver.prepare()
            driver.define(stack.vcd["one"])
            driver.start("one")
            driver.snapshot(["one"], tag=TAG, golden="bench")
            ours, other = _measure(driver, lab)
        finally:
            driver.remove()
            driver.close()
    return _report(ours, other)


def _measure(driver: PodmanDriver, lab: PodmanLab) -> tuple[list[float], list[float]]:
    """The seconds of each round, of the driver and of the command line."""
    ours: list[float] = []
    other: list[float] = []
    ways: list[tuple[list[float], Callable[[], None]]] = [
        (ours, lambda: driver.restore("one", tag=TAG)),
        (other, lambda: _by_hand(lab)),
    ]
    for _ in range(ROUNDS):
        for seconds, restore in ways:
            lab.podman("exec", "bench-one", "rm", "-rf", "/etc/fstab")
            began = time.monotonic()
            restore()
            seconds.append(time.monotonic() - began)
            lab.podman("exec", "bench-one", "ls", "/etc/fstab")
        ways.reverse()
    return ours, other


def _by_hand(lab: PodmanLab) -> None:
    # The labels keep the container the driver's own, for the next round.
    labels = ["--label=stackmend.stack=bench", "--label=stackmend.vcd=one"]
    lab.podman("rm", "--force", "--time=0", "bench-one")
    network = ["--network=bench", f"--ip={ADDRESS}", "--hostname=one"]
    lab.podman("run", "--detach", "--name=bench-one", *labels, *network, RESTORED, *COMMAND)


def _report(ours: list[float], other: list[float]) -> int:
    our, their = statistics.median(ours), statistics.median(other)
    holds = our - their <= GOAL_ADDED_S
    figure = {
        "name": "rollback of one container, median seconds",
        "ours": round(our, 3),
        "other": round(their, 3),
        "other_name": "podman rm -f -t 0; podman run -d",
        "ratio": round(our / their, 2),
        "goal": f"adds at most {GOAL_ADDED_S:g} s",
        "holds": holds,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": [figure]}, indent=2) + "\n")
    sys.stdout.write(
        f"{figure['name']}: {our:.3f}; {figure['other_name']}: {their:.3f}; goal held: {holds}\n"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
