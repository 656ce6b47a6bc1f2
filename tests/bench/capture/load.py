"""The load generator, compiled when it is needed, and the private namespace that its calls stay in."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from tests.lab.namespace import Namespace, namespace, run

SOURCE = Path(__file__).with_name("load.c")
SUBNET = "198.18.77.0/24"
FIRST = "198.18.77.1"
DESTINATIONS = 100
PORT = 7400
BATCHES = {"tcp": 5, "udp": 20, "connected": 20}
"""Calls that are timed together: so few that no tick of the kernel's clock is in most times, in a slow guest either."""
PROGRAM = f"load-{os.getpid()}"
"""What the kernel calls the generator; other benchmarks on the machine have another."""


class Done(NamedTuple):
    """What a load was: how many calls, and nanoseconds of CPU time that one took in the fastest quarter of them."""

    calls: int
    fastest_ns: float


class Generator:
    """A process that makes calls inside a namespace, from there to there; all addresses of ``SUBNET`` are its own."""

    def __init__(self, binary: Path, inside: Namespace, *, cpu: int, port: int) -> None:
        load = [str(binary), FIRST, str(DESTINATIONS), str(port)]
        command = inside.enter("taskset", "--cpu-list", str(cpu), *load)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, kind: str, *, milliseconds: int, batch: int | None = None, period_us: int = 0) -> None:
        """Begin to make calls for so long: a batch every ``period_us``, or one after the other."""
        assert self._process.stdin
        self._process.stdin.write(f"{kind} {batch or BATCHES[kind]} {period_us} {milliseconds}\n")
        self._process.stdin.flush()

    def finish(self) -> Done:
        """Wait for the end of what was begun."""
        assert self._process.stdout
        calls, fastest_ns = self._process.stdout.readline().split()
        return Done(int(calls), float(fastest_ns))

    def run(self, kind: str, *, milliseconds: int) -> Done:
        """Make calls, one after the other."""
        self.start(kind, milliseconds=milliseconds)
        return self.finish()


class Lab(NamedTuple):
    """Where loads are made: the compiled generator and the namespace that its calls stay in."""

    binary: Path
    inside: Namespace

    def generator(self, *, cpu: int | None = None, port: int = PORT) -> Generator:
        """A generator bound to one CPU, by default the last one; several need ports of their own."""
        chosen = max(os.sched_getaffinity(0)) if cpu is None else cpu
        return Generator(self.binary, self.inside, cpu=chosen, port=port)


@contextmanager
def lab(compiled: Path | None = None) -> Iterator[Lab]:
    """Give the generator a namespace, and compile it unless it is compiled already."""
    with TemporaryDirectory() as scratch, namespace() as inside:
        binary = Path(scratch, PROGRAM)
        if compiled:
            shutil.copy(compiled, binary)
        else:
            compile_generator(binary)
        run(["ip", "-n", inside.name, "address", "add", SUBNET, "dev", "lo"])
        # Each closed connection would hold a port for a minute, of which there are not enough.
        run(inside.enter("sysctl", "--quiet", "--write", "net.ipv4.tcp_max_tw_buckets=64"))
        yield Lab(binary, inside)


def compile_generator(target: Path) -> None:
    """Compile it for this machine."""
    run(["clang", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(SOURCE)])
