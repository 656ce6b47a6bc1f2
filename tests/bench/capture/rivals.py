"""What is attached while a load runs: nothing, empty programs on the capture's own hooks, the capture, or bpftrace."""

import json
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dma.capture.core import OBJECT
from dma.capture.libbpf import Object, library
from dma.capture.plans import open_capture
from dma.capture.target import Target, cgroup2_root, opened_cgroup
from dma.flow import Transport
from tests.bench.capture.load import PROGRAM
from tests.lab.namespace import run

SCRIPT = Path(__file__).with_name("equivalent.bt")
STOP_S = 30.0
HEADER = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
const volatile __u64 knobs = 0;
"""
KNOBS = bytes(8)

Counted = Callable[[], Mapping[Transport, int]]
"""Tells, once the load is over, the attempts counted by transport; empty for those who count nothing."""
Rival = Callable[[], AbstractContextManager[Counted]]


@contextmanager
def nothing() -> Iterator[Counted]:
    """Nothing attached."""
    yield dict


@contextmanager
def ours(plan: str) -> Iterator[Counted]:
    """The capture of the whole machine, as an agent opens it."""
    with open_capture(Target(), plan=plan) as capture:

        def counted() -> Mapping[Transport, int]:
            totals = dict.fromkeys(Transport, 0)
            for flow in capture.flows():
                if flow.destination.command == PROGRAM:
                    totals[flow.destination.transport] += flow.attempts
            return totals

        yield counted


@contextmanager
def floor(plan: str) -> Iterator[Counted]:
    """Programs that do nothing, on every hook that the capture has: what no capture with these hooks can go below."""
    with open_capture(Target(), plan=plan) as capture:
        names = [probe.name for probe in capture.probes if not probe.problem]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        sections = _sections(names)
        empty = stack.enter_context(Object(_compile(scratch, sections)))
        empty.load(programs=names, rodata=KNOBS, max_entries={})
        root = cgroup2_root()
        cgroup_fd = stack.enter_context(opened_cgroup(root)) if root else None
        for name, section in sections.items():
            empty.attach(name, cgroup_fd if section.startswith("cgroup/") else None)
        yield dict


def _sections(names: list[str]) -> dict[str, str]:
    """Where the capture's programs hang."""
    with Object(OBJECT) as capture:
        programs = capture.programs()
        return {name: library().bpf_program__section_name(programs[name]).decode() for name in names}


def _compile(scratch: Path, sections: Mapping[str, str]) -> Path:
    programs = (
        f'SEC("{section}") int {name}(void *ctx) {{ return {int(section.startswith("cgroup/"))}; }}\n'
        for name, section in sections.items()
    )
    source, target = scratch / "empty.bpf.c", scratch / "empty.bpf.o"
    source.write_text(HEADER + "".join(programs) + 'char LICENSE[] SEC("license") = "GPL";\n')
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    run(["clang", "-g", "-O2", "-target", "bpf", include, "-c", str(source), "-o", str(target)])
    return target


def with_tracefs(*arguments: str) -> list[str]:
    """A bpftrace that has tracefs, in a mount namespace of its own: the machine may have none, and is left so."""
    mount = 'mount -t tracefs tracefs /sys/kernel/tracing && exec bpftrace "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "bpftrace", *arguments]


@contextmanager
def bpftrace() -> Iterator[Counted]:
    """The script beside this file, once it says that it is attached."""
    command = with_tracefs("-f", "json", "-B", "line", str(SCRIPT))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            if not any("ready" in line for line in process.stdout):
                _, complaint = process.communicate(timeout=STOP_S)
                raise RuntimeError(f"bpftrace does not run: {complaint.strip()}")
            yield lambda: _stopped(process)
        finally:
            process.kill()


def _stopped(process: subprocess.Popen[str]) -> Mapping[Transport, int]:
    """Have bpftrace end, and sum up what it prints then."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=STOP_S)
    maps: dict[str, dict[str, int]] = {}
    for line in filter(None, output.splitlines()):
        if (record := json.loads(line))["type"] == "map":
            maps |= record["data"]
    return {Transport.TCP: _sum(maps, "@attempts"), Transport.UDP: _sum(maps, "@datagrams", "@connected")}


def _sum(maps: Mapping[str, Mapping[str, int]], *names: str) -> int:
    return sum(
        count
        for name in names
        for key, count in maps.get(name, {}).items()
        if key.rpartition(",")[2] == PROGRAM
    )
