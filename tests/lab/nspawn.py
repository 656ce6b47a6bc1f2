"""A machine with systemd in it: systemd-nspawn on a layer above this machine's own root, in a namespace of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.lab.namespace import LabError, Namespace, run

CGROUPS = Path("/sys/fs/cgroup")
DEADLINE_S = 60.0
LOOK_S = 0.1
POWER_OFF = signal.SIGRTMIN + 4

T = TypeVar("T")


class Layer(NamedTuple):
    """A root directory in which everything of this machine is, and the directory that holds what is written to it."""

    root: Path
    changes: Path

    def files(self) -> set[str]:
        """What was written, but for directories."""
        found = (path for path in self.changes.rglob("*") if path.is_symlink() or not path.is_dir())
        return {path.relative_to(self.changes).as_posix() for path in found}


class Machine(NamedTuple):
    """A machine that has booted: the process number of its systemd."""

    leader: int

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a program in it to its end."""
        inside = ["nsenter", "--all", "--target", str(self.leader), *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@contextmanager
def layer(folder: Path) -> Iterator[Layer]:
    """Mount a layer above this machine's root."""
    made = Layer(folder / "root", folder / "changes")
    for directory in (made.root, made.changes, folder / "work"):
        directory.mkdir()
    options = f"lowerdir=/,upperdir={made.changes},workdir={folder}/work"
    run(["mount", "-t", "overlay", "-o", options, "stackmend-lab", str(made.root)])
    try:
        yield made
    finally:
        run(["umount", str(made.root)])


@contextmanager
def booted(root: Path, network: Namespace, *, unit: str, allowed: tuple[str, ...]) -> Iterator[Machine]:
    """Boot it to a unit, with these system calls beyond those that nspawn allows; powered off at the end."""
    name = f"stackmend-lab-{os.getpid()}"
    bases = [CGROUPS] if (CGROUPS / "cgroup.procs").exists() else [CGROUPS / "unified", CGROUPS / "systemd"]
    groups = [base / name for base in bases if base.is_dir()]
    for group in groups:
        group.mkdir()
    command = ["systemd-nspawn", "-q", "-D", str(root), "-M", name, "--register=no", "--keep-unit"]
    command += [f"--network-namespace-path={network.path}", "--link-journal=no", "--boot"]
    command += ["--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN,CAP_NET_RAW"]
    command += [f"--system-call-filter={' '.join(allowed)}"]
    join = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
    process = subprocess.Popen(
        ["sh", "-c", f'{join}exec "$@"', "sh", *command, f"systemd.unit={unit}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        leader = until(lambda: _leader(process.pid), what="systemd-nspawn has no child")
        try:
            yield Machine(leader)
        finally:
            _power_off(process, leader)
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        for group in groups:
            until(partial(_remove, group), what=f"{group} is busy")


def until(fact: Callable[[], T], *, what: str) -> T:
    """Wait for something true and return it. Raises :class:`LabError` with ``what`` when it does not come."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := fact()):
        if time.monotonic() > deadline:
            raise LabError(f"{what}: look at the machine's load")
        time.sleep(LOOK_S)
    return found


def _leader(pid: int) -> int:
    """The machine's systemd, below nspawn's own processes; 0 while there is none."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            name = (entry / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            return int(entry.name) if name == "systemd" else _leader(int(entry.name))
    return 0


def _power_off(process: "subprocess.Popen[bytes]", leader: int) -> None:
    os.kill(leader, POWER_OFF)
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        # Whoever kills nspawn alone leaves the machine running.
        os.kill(leader, signal.SIGKILL)


def _remove(group: Path) -> bool:
    """Whether a cgroup and those below it are gone."""
    below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    try:
        for directory in (*below, group):
            directory.rmdir()
    except OSError:
        return False
    return True
