"""The podman lab itself: private, repeatable and gone afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.image import ImageSpec
from tests.lab.namespace import NAMESPACES
from tests.lab.podman import BASE, PodmanLab
from tests.lab.processes import processes
from tests.lab.tiny import TINY

pytestmark = pytest.mark.lab

KILLED = """
import sys
from tests.lab.podman import PodmanLab
from tests.lab.test_podman import run_container
with PodmanLab() as lab:
    run_container(lab)
    print(lab.netns, flush=True)
    sys.stdin.read()
"""


def run_container(lab: PodmanLab) -> None:
    """A container with an address on a network, in this lab."""
    lab.podman("network", "create", "--disable-dns", "--subnet=198.18.69.0/24", "net")
    where = ("--name=one", "--network=net", "--ip=198.18.69.11")
    lab.podman("run", "--detach", *where, lab.image(TINY), "/bin/sh", "-c", "while :; do sleep 1; done")


def _traces(name: str) -> list[str]:
    """What is there of a lab: its namespace, directory, mounts and processes."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]
    return (
        [str(path / name) for path in (NAMESPACES, BASE) if (path / name).exists()]
        + mounts
        + list(processes(name).values())
    )


@pytest.mark.usefixtures("podman_lab")
def test_labs_side_by_side_leave_nothing() -> None:
    """Two labs use the same names and addresses at the same time, and nothing of either is left."""
    with PodmanLab() as one, PodmanLab() as other:
        for lab in (one, other):
            run_container(lab)
            assert "198.18.69.11/24" in lab.podman("exec", "one", "busybox", "ip", "-4", "addr").stdout
        assert _traces(one.netns)
        assert one.podman("ps", "--quiet").stdout != other.podman("ps", "--quiet").stdout
    assert _traces(one.netns) + _traces(other.netns) == []


def _end(number: signal.Signals) -> str:
    """Send a signal to a process with a lab, and its process group as a terminal does; returns the lab's name."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        os.killpg(process.pid, number)
    return name


@pytest.mark.usefixtures("podman_lab")
def test_an_interrupted_lab_leaves_nothing() -> None:
    """Ctrl-C takes the lab down like a regular end."""
    assert _traces(_end(signal.SIGINT)) == []


@pytest.mark.usefixtures("podman_lab")
def test_a_killed_lab_is_swept() -> None:
    """What a killed run left behind, running containers as well, goes when the next lab starts."""
    name = _end(signal.SIGKILL)
    assert any("conmon" in trace for trace in _traces(name))
    with PodmanLab():
        assert _traces(name) == []


def test_inputs_follow_the_contents(tmp_path: Path) -> None:
    """The digest of an image's inputs changes with contents, modes and packages, and not with the place."""
    spec = ImageSpec("x", ("a",), tree=tmp_path / "here")
    for place in ("here", "there"):
        (tmp_path / place / "etc").mkdir(parents=True)
        (tmp_path / place / "etc" / "file").write_text("1")
    first = spec.inputs()
    assert spec._replace(tree=tmp_path / "there").inputs() == first
    assert spec._replace(packages=("b",)).inputs() != first
    (tmp_path / "here" / "etc" / "file").chmod(0o755)
    second = spec.inputs()
    assert second != first
    (tmp_path / "here" / "etc" / "file").write_text("2")
    assert spec.inputs() != second
