"""The binding: what is attached dies with its process, and refusals say what to try."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma.capture.core import LEARN_SELF, OBJECT
from dma.capture.hooks import CGROUP, OUTCOMES
from dma.capture.layout import Knobs
from dma.capture.libbpf import LoadError, Object, library
from dma.flow import CaptureError
from tests.dma.capture.lab import DEADLINE_S, compiled_for, compiled_without

pytestmark = pytest.mark.kernel

HOLDER = """
import signal
from dma.capture.plans import open_capture
from dma.capture.target import Target
with open_capture(Target(), plan="cgroup"):
    print("open", flush=True)
    signal.pause()
"""
LOOK_UPS = {
    "link_id": "bpf_link_get_fd_by_id",
    "prog_id": "bpf_prog_get_fd_by_id",
    "map_id": "bpf_map_get_fd_by_id",
}
KNOBS = Knobs(
    *(0, 0, 0, 0, 0),
    keep_loopback=False,
    every_socket=False,
    count_udp_connects=False,
    peers_by_address=False,
    trusted_task=False,
)


def kernel_objects(pid: int) -> Iterator[tuple[str, int]]:
    """Kind and number of every BPF link, program and map that a process holds."""
    directory = Path(f"/proc/{pid}/fdinfo")
    for fd in os.listdir(directory):
        try:
            info = (directory / fd).read_text()
        except FileNotFoundError:  # the descriptor by which the directory itself was read
            continue
        for line in info.splitlines():
            kind, _, number = line.partition(":\t")
            if kind in LOOK_UPS:
                yield kind, int(number)


def exists(kind: str, number: int) -> bool:
    """Whether the kernel still has it."""
    fd: int = getattr(library(), LOOK_UPS[kind])(number)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_its_process(number: signal.Signals) -> None:
    """Links, programs and maps of a process vanish with it, however it is killed."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        held = set(kernel_objects(holder.pid))
        assert {kind for kind, _ in held} == set(LOOK_UPS)
        assert all(exists(*one) for one in held)
        holder.send_signal(number)
        holder.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while any(exists(*one) for one in held):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_nothing_is_left_after_close() -> None:
    """A closed capture keeps nothing in its own process."""
    before = set(kernel_objects(os.getpid()))
    with Object(OBJECT) as loaded:
        loaded.load(
            programs=(LEARN_SELF, *(hook.program for hook in CGROUP.hooks)),
            rodata=KNOBS.pack(),
            max_entries={"destinations": 1},
        )
        loaded.attach(OUTCOMES)
        assert set(kernel_objects(os.getpid())) > before
    assert set(kernel_objects(os.getpid())) == before


def test_missing_object(tmp_path: Path) -> None:
    """An object that was not built yet names the command that builds it."""
    with pytest.raises(CaptureError, match=r"no such file: make dma/capture/flows.bpf.o"):
        Object(tmp_path / "flows.bpf.o")


def test_broken_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that is no BPF object is refused, and libbpf writes nothing to the terminal."""
    (tmp_path / "flows.bpf.o").write_bytes(b"not an object")
    with pytest.raises(CaptureError, match=r"flows\.bpf\.o"):
        Object(tmp_path / "flows.bpf.o")
    assert capfd.readouterr().err == ""


def test_constants_of_another_layout() -> None:
    """Constants of the wrong size are refused rather than misread."""
    with Object(OBJECT) as loaded, pytest.raises(CaptureError, match="of another version"):
        loaded.load(programs=(OUTCOMES,), rodata=KNOBS.pack()[:-1], max_entries={})


def test_refused_program_is_named(tmp_path: Path) -> None:
    """The kernel's refusal of a program names it, so that a plan can do without: here a misread argument."""
    other = compiled_for(tmp_path, {"inet_sk_error_report": "sys_enter"})
    with Object(other) as loaded, pytest.raises(LoadError, match="prog 'inet_sk_error_report'") as refused:
        loaded.load(programs=loaded.programs, rodata=KNOBS.pack(), max_entries={"destinations": 1})
    assert refused.value.program == "inet_sk_error_report"


def test_absent_tracepoint_is_named(tmp_path: Path) -> None:
    """A tracepoint that the kernel lacks is named before anything is loaded, and so is the program that asks for it."""
    older = compiled_without(tmp_path, "inet_sk_error_report")
    absent = "this kernel has no tracepoint absent_inet_sk_error_report"
    with Object(older) as loaded, pytest.raises(LoadError, match=absent) as refused:
        loaded.load(programs=loaded.programs, rodata=KNOBS.pack(), max_entries={"destinations": 1})
    assert refused.value.program == "inet_sk_error_report"
