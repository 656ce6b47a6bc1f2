"""What is attached while a load runs: nothing, empty programs on the capture's own hooks, the capture, other tools."""

import json
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from dma.capture.core import OBJECT
from dma.capture.libbpf import Object, library
from dma.capture.plans import open_capture
from dma.capture.target import Target, cgroup2_root, opened_cgroup
from dma.flow import Transport
from tests.bench.capture.load import PROGRAM
from tests.lab.namespace import run

SCRIPTS = {
    plan: Path(__file__).with_name(f"equivalent_{script}.bt")
    for plan, script in {"cgroup": "cgroup", "kprobe": "kprobe", "fentry": "kprobe"}.items()
}
START_S, STOP_S, STOP_TRIES = 600.0, 60.0, 3
PAUSE_S = 1.0
HEADER = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
const volatile __u64 knobs = 0;
"""
KNOBS = bytes(8)

Counted = Callable[[], Mapping[Transport, int]]
"""Tells, once the load is over, the attempts counted by transport; empty for those who count nothing."""


class Attached(NamedTuple):
    """A rival at work; ``process`` is the one in user space that takes part in every call, if there is one."""

    counted: Counted = dict
    process: int | None = None
    connected: int | None = None
    """What all datagrams of one connected socket count as; without it each counts."""


Rival = Callable[[], AbstractContextManager[Attached]]


@contextmanager
def nothing() -> Iterator[Attached]:
    """Nothing attached."""
    yield Attached()


@contextmanager
def ours(plan: str) -> Iterator[Attached]:
    """The capture of the whole machine, as an agent opens it."""
    with open_capture(Target(), plan=plan) as capture:

        def counted() -> Mapping[Transport, int]:
            totals = dict.fromkeys(Transport, 0)
            for flow in capture.flows():
                if flow.destination.command == PROGRAM:
                    totals[flow.destination.transport] += flow.attempts
            return totals

        yield Attached(counted, connected=1 if plan == "cgroup" else None)


@contextmanager
def floor(plan: str, empty: Path) -> Iterator[Attached]:
    """The object of ``compile_empty`` on every hook that the capture has: no capture with these hooks costs less."""
    with open_capture(Target(), plan=plan) as capture:
        names = [probe.name for probe in capture.probes if not probe.problem]
    with ExitStack() as stack:
        loaded = stack.enter_context(Object(empty))
        loaded.load(programs=names, rodata=KNOBS, max_entries={})
        root = cgroup2_root()
        cgroup_fd = stack.enter_context(opened_cgroup(root)) if root else None
        sections = _sections()
        for name in names:
            loaded.attach(name, cgroup_fd if sections[name].startswith("cgroup/") else None)
        yield Attached()


def compile_empty(target: Path) -> None:
    """Compile a program that does nothing for each of the capture's."""
    programs = (
        f'SEC("{section}") int {name}(void *ctx) {{ return {int(section.startswith("cgroup/"))}; }}\n'
        for name, section in _sections().items()
    )
    source = target.with_suffix(".c")
    source.write_text(HEADER + "".join(programs) + 'char LICENSE[] SEC("license") = "GPL";\n')
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    run(["clang", "-g", "-O2", "-target", "bpf", include, "-c", str(source), "-o", str(target)])


def _sections() -> dict[str, str]:
    """Where the capture's programs hang, by their names."""
    with Object(OBJECT) as capture:
        programs = capture.programs
        return {name: library().bpf_program__section_name(programs[name]).decode() for name in programs}


def with_tracefs(*arguments: str) -> list[str]:
    """A bpftrace that has tracefs, in a mount namespace of its own: the machine may have none, and is left so."""
    mount = 'mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec bpftrace "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "bpftrace", *arguments]


@contextmanager
def bpftrace(plan: str) -> Iterator[Attached]:
    """The plan's script beside this file, once it says that it is attached."""
    command = with_tracefs("-f", "json", "-B", "line", str(SCRIPTS[plan]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        late = threading.Timer(START_S, process.kill)
        late.start()
        try:
            assert process.stdout
            ready = any("ready" in line for line in process.stdout)
            late.cancel()
            if not ready:
                _, complaint = process.communicate(timeout=STOP_S)
                raise RuntimeError(f"bpftrace does not run: {complaint.strip()}")
            yield Attached(lambda: _stopped(process), process.pid, 0 if plan == "cgroup" else None)
        finally:
            late.cancel()
            process.kill()


def _stopped(process: subprocess.Popen[str]) -> Mapping[Transport, int]:
    """Have bpftrace end, and sum up what it prints then."""
    output = _interrupted(process)
    maps: dict[str, dict[str, int]] = {}
    for line in filter(None, output.splitlines()):
        if (record := json.loads(line))["type"] == "map":
            maps |= record["data"]
    return {Transport.TCP: _sum(maps, "@attempts"), Transport.UDP: _sum(maps, "@datagrams", "@connected")}


def _interrupted(process: subprocess.Popen[str]) -> str:
    """What it prints when it is told to end, once more if need be."""
    for _ in range(STOP_TRIES):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=STOP_S / STOP_TRIES)[0]
    raise RuntimeError(f"bpftrace does not end within {STOP_S:g} s")


def _sum(maps: Mapping[str, Mapping[str, int]], *names: str) -> int:
    return sum(
        count
        for name in names
        for key, count in maps.get(name, {}).items()
        if key.rpartition(",")[2] == PROGRAM
    )


@contextmanager
def printing(command: list[str], prompt: Callable[[], object]) -> Iterator[Attached]:
    """A tool that prints what it sees, once it has printed something of the calls that ``prompt`` makes."""
    with NamedTemporaryFile() as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + START_S
            while not Path(output.name).stat().st_size:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{' '.join(command)} sees nothing: is it installed, and are its headers?"
                    )
                prompt()
                time.sleep(PAUSE_S)  # a tool that compiles itself needs the processor, too
            yield Attached(process=process.pid)
        finally:
            process.kill()
