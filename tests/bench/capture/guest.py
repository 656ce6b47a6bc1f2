"""What the capture costs in a guest with the distribution's kernel: run as ``python -m tests.bench.capture.guest``."""

import argparse
import io
import json
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.capture import figures, rivals
from tests.bench.capture.compare import BCC
from tests.bench.capture.cost import Costs
from tests.bench.capture.load import compile_generator
from tests.bench.capture.report import report, show
from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest
from tests.lab.vm_image import BENCH

ROOT = Path(__file__).parents[3]
RESULT = Path("build/bench/capture-guest.json")
ADDRESS = "198.18.0.90"
MEMORY_MIB = 1024
INSIDE = "/var/tmp/bench"
INTERPRETER = "/opt/stackmend/bin/python"
MODULES = ("tests/__init__.py", "tests/lab/__init__.py", "tests/lab/namespace.py", "tests/bench/__init__.py")
ROUND_S = 900.0


def main() -> int:
    """The status tells whether all goals hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", default="kprobe", help="the capture's plan")
    parser.add_argument("--rounds", type=int, default=5, help="how often each rival has its turn")
    parser.add_argument(
        "--no-bcc", action="store_true", help="without bcc's tools, which start slowly without KVM"
    )
    arguments = parser.parse_args()
    tools = () if arguments.no_bcc else tuple(BCC)
    with LibvirtLab() as lab:
        guest = lab.guest("bench", ADDRESS, memory_mib=MEMORY_MIB, flavour=BENCH)
        lab.install(guest)
        _equip(guest)
        command = ("env", "-C", INSIDE, INTERPRETER, "-m", "tests.bench.capture.in_guest")
        inputs = (arguments.plan, str(arguments.rounds), "load", "empty.bpf.o", *tools)
        done = guest.run(*command, *inputs, timeout_s=ROUND_S * arguments.rounds)
    costs = Costs(**json.loads(done.stdout))
    show(costs)
    plan = f"guest, {arguments.plan}"
    beside_bcc = figures.of_bcc(costs, plan=plan) if tools else ()
    return report(RESULT, [*figures.of_costs(costs, plan=plan), *beside_bcc])


def _equip(guest: Guest) -> None:
    """Give it the benchmark, with what takes a compiler."""
    with TemporaryDirectory() as scratch, io.BytesIO() as packed:
        compile_generator(Path(scratch, "load"))
        rivals.compile_empty(Path(scratch, "empty.bpf.o"))
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name in MODULES:
                archive.add(ROOT / name, name)
            for path in sorted(Path(__file__).parent.glob("*.[pb][yt]")):
                archive.add(path, path.relative_to(ROOT))
            for name in ("load", "empty.bpf.o"):
                archive.add(Path(scratch, name), name)
        guest.agent.write("/var/tmp/bench.tar.gz", packed.getvalue())
    guest.run("mkdir", INSIDE)
    guest.run("tar", "-xzf", "/var/tmp/bench.tar.gz", "-C", INSIDE)


if __name__ == "__main__":
    sys.exit(main())
