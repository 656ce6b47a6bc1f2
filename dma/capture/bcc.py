"""The loader for kernels without BTF: a child process has bcc compile the programs against the kernel's headers.

The maps are made here, and the child is told their descriptors, so that of bcc nothing is left when it has ended.
"""

import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from dma.capture import libbpf
from dma.capture.hooks import Hook, Kind
from dma.capture.layout import CALL, CONNECTION, DESTINATION, DIGEST_BYTES, ENTRY, LOSSES, Knobs
from dma.capture.libbpf import Map, MapType
from dma.flow import CaptureError

SOURCES = Path(__file__).with_name("source")
CHILD = Path(__file__).with_name("bcc_child.py")
SYSTEM_PYTHON = Path("/usr/bin/python3")
"""The interpreter that distributions install bcc for."""
COMPILE_S = 300.0
"""Emulated machines take most of a minute."""
FLAGS = ("-Wno-incompatible-pointer-types-discards-qualifiers",)  # of the helpers, as bcc declares them
RING_BYTES = 64 * 1024
LEARN_SELF = "learn_self"

HEADERS = (
    Path("/lib/modules", platform.release(), "build"),
    Path("/sys/kernel/kheaders.tar.xz"),
)
SOURCE_VARIABLE = "BCC_KERNEL_SOURCE"
"""Where bcc is to look for them instead, if it is set."""
_MESSAGE, _DESCRIPTORS = 1 << 16, 64
_PLACES = {"ip4_datagram_connect": "__ip4_datagram_connect", "ip6_datagram_connect": "__ip6_datagram_connect"}


class Answer(msgspec.Struct, frozen=True):
    """What the child tells: how many descriptors come for each loaded program, and why others are missing."""

    counts: dict[str, int]
    problems: dict[str, str]


class Shape(NamedTuple):
    """A map to be made; without ``entries`` the plan says how many."""

    kind: MapType
    key_size: int
    value_size: int
    entries: int | None


# As in bpf/flows.bpf.c, where each map's life is told; instead of a variable that holds the agent's number, a map.
MAPS = {
    "destinations": Shape(MapType.HASH, DIGEST_BYTES, ENTRY.size, None),
    "attempts": Shape(MapType.HASH, 8, CONNECTION.size, None),
    "peers": Shape(MapType.LRU_HASH, 8, DESTINATION.size, None),
    "calls": Shape(MapType.LRU_HASH, 8, CALL.size, 4096),
    "events": Shape(MapType.RINGBUF, 0, 0, RING_BYTES),
    "losses": Shape(MapType.PERCPU_ARRAY, 4, 8, len(LOSSES)),
    "self": Shape(MapType.ARRAY, 4, 4, 1),
}


class BccLoaded:
    """See ``dma.capture.probed.Loaded``."""

    def __init__(
        self, maps: Mapping[str, Map], programs: Mapping[str, int], problems: Mapping[str, str]
    ) -> None:
        self.problems = problems
        self._maps = maps
        self._programs = programs

    def attach(self, program: str, cgroup_fd: int | None) -> None:
        """They are attached already: the child did."""

    def map(self, name: str) -> Map:
        """One of the maps."""
        return self._maps[name]

    def misses(self, program: str) -> int:
        """How often the kernel skipped a program because it was already running on that CPU."""
        return libbpf.misses(self._programs[program], program)


class BccLoader:
    """See ``dma.capture.probed.Loader``."""

    name = "bcc"

    def load(
        self, stack: ExitStack, hooks: tuple[Hook, ...], knobs: Knobs, sizes: Mapping[str, int]
    ) -> BccLoaded:
        """Compile, load and attach in a child process; takes seconds."""
        interpreter = _interpreter()
        if SOURCE_VARIABLE not in os.environ and not any(place.exists() for place in HEADERS):
            raise CaptureError(f"the running kernel's headers are missing: {_package()}")
        maps = {
            name: stack.enter_context(
                libbpf.created_map(
                    name, shape.kind, shape.key_size, shape.value_size, shape.entries or sizes[name]
                )
            )
            for name, shape in MAPS.items()
        }
        job = {
            "text": _text(knobs, maps),
            "cflags": [f"-I{SOURCES}", *FLAGS],
            "programs": [*map(_program, hooks), (LEARN_SELF, "none", "")],
        }
        answer, descriptors = _compiled(stack, interpreter, json.dumps(job).encode(), maps)
        programs = {name: descriptors.pop(0)[0] for name in answer.counts}
        libbpf.run_program(programs[LEARN_SELF], LEARN_SELF)
        return BccLoaded(maps, programs, answer.problems)


def _interpreter() -> str:
    """One that has bcc."""
    if importlib.util.find_spec("bcc"):
        return sys.executable
    if (
        not SYSTEM_PYTHON.exists()
        or subprocess.run(
            [SYSTEM_PYTHON, "-c", "import importlib.util as u; raise SystemExit(not u.find_spec('bcc'))"]
        ).returncode
    ):
        raise CaptureError("bcc is missing: apt-get install python3-bpfcc (elsewhere: python3-bcc)")
    return str(SYSTEM_PYTHON)


def _package() -> str:
    """The command that installs the headers of the running kernel."""
    release = platform.release()
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    family = f"{system.get('ID', '')} {system.get('ID_LIKE', '')}".split()
    if "debian" in family:
        return f"apt-get install linux-headers-{release}"
    if "fedora" in family:
        return f"dnf install kernel-devel-{release}"
    return f"install the headers of kernel {release}"


def _text(knobs: Knobs, maps: Mapping[str, Map]) -> str:
    """The source with the settings as constants and the maps by their descriptors."""
    lines = ["#include <uapi/linux/ptrace.h>", '#include "flows.h"']
    lines += [f"#define {name}_fd {one.fd}" for name, one in maps.items()]
    values = ", ".join(f".{name} = {int(value)}" for name, value in knobs._asdict().items())
    lines += [f"static const struct knobs knobs = {{ {values} }};"]
    try:
        return "\n".join(lines) + "\n" + (SOURCES / "flows.bcc.c").read_text()
    except OSError as e:
        raise CaptureError(f"{e.filename}: {str(e.strerror).lower()}: make dma/capture/flows.bpf.o") from e


def _program(hook: Hook) -> tuple[str, str, str]:
    """What the child needs to know of one: its name, its kind and its place."""
    if hook.kind is not Kind.KPROBE:
        return hook.program, "raw_tracepoint", hook.program
    place, _, end = hook.program.rpartition("_")
    return hook.program, "kretprobe" if end == "return" else "kprobe", _PLACES.get(place, place)


def _compiled(
    stack: ExitStack, interpreter: str, job: bytes, maps: Mapping[str, Map]
) -> tuple[Answer, list[list[int]]]:
    """The child's answer, and the descriptors of each program, which are closed with the stack."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there, tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [interpreter, "-I", str(CHILD), str(there.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            pass_fds=[there.fileno(), *(one.fd for one in maps.values())],
        )
        there.close()
        here.settimeout(COMPILE_S)
        with child:
            try:
                assert child.stdin
                child.stdin.write(job)
                child.stdin.close()
                told, received, _, _ = socket.recv_fds(here, _MESSAGE, _DESCRIPTORS)
            except TimeoutError as e:
                raise CaptureError(
                    f"bcc has not compiled in {COMPILE_S:g} s: choose --loader core or another --plan"
                ) from e
            except BrokenPipeError:
                told, received = b"", []
            finally:
                child.kill()
        for descriptor in received:
            stack.callback(os.close, descriptor)
        if not told:
            raise CaptureError(f"bcc did not compile: {_reason(complaints)}")
    answer = msgspec.json.decode(told, type=Answer)
    each = iter(received)
    return answer, [[next(each) for _ in range(count)] for count in answer.counts.values()]


def _reason(complaints: IO[bytes]) -> str:
    """The first error among what the child printed, else the last line."""
    complaints.seek(0)
    lines = [line for line in complaints.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return (errors or lines[-1:] or ["it said nothing: run `dma doctor`"])[0].strip()
