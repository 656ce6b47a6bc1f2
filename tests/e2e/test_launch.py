"""Launches of the sample shop that a golden image guards from their first moment."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.shop import faults
from tests.examples.guarded import GuardedShop, shop_lab
from tests.lab.namespace import run
from tests.lab.podman import PodmanLab

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

LAUNCH_S = 90
SLACK_S = 5.0


@pytest.fixture(scope="module")
def learned(podman_lab: PodmanLab) -> Iterator[GuardedShop]:
    """The shop, learned from one launch and taken down again; its snapshots are kept."""
    with shop_lab(podman_lab) as guarded:
        for command in (["up"], ["capture"], ["down", "--keep-snapshots"]):
            done = guarded.idm(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        yield guarded


@contextmanager
def launching(shop: GuardedShop, *, after: str) -> Iterator["subprocess.Popen[str]"]:
    """``idm up`` under way; the block begins when a container's service runs, and the launch is taken down after it."""
    up = subprocess.Popen(
        shop.idm_command("up"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        shop.until(lambda: _runs(shop, after), within_s=30, what=f"{after} runs")
        yield up
    finally:
        if up.poll() is None:
            up.terminate()
            up.communicate(timeout=30)
        shop.idm("down", "--keep-snapshots")


def _runs(shop: GuardedShop, vcd: str) -> bool:
    listed = shop.place.execute(vcd, ["test", "-e", "/run/shop.pid"])
    return listed.returncode == 0


def _lives(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to take note of its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(up: "subprocess.Popen[str]") -> str:
    """Wait for the launch's end and its success; returns what it said."""
    said, _ = up.communicate(timeout=LAUNCH_S)
    assert up.returncode == 0, said
    return said


def test_a_service_that_starts_late_within_what_was_learned_is_waited_for(
    podman_lab: PodmanLab, learned: GuardedShop
) -> None:
    """A database that answers some seconds later than ever before, but before its deadline, is no fault."""
    with launching(learned, after="db") as up:
        podman_lab.podman("pause", "shop-db")
        time.sleep(3)  # this is how late it is
        podman_lab.podman("unpause", "shop-db")
        said = ended(up)
        assert "the stack is whole" in said
        assert learned.history() == []


def test_a_launch_that_never_gets_whole_is_rolled_back_when_it_is_due(learned: GuardedShop) -> None:
    """A service that never comes up is taken back to its snapshot, but not before its learned deadline."""
    begun_s = time.time()
    with launching(learned, after="cache") as up:
        faults.crash(learned, "cache")
        said = ended(up)
        assert "the stack is whole" in said
        (rollback,) = learned.history()
        assert (rollback["vcds"], rollback["outcome"]) == (["cache"], "ROLLBACK_OUTCOME_RECOVERED")
        assert int(rollback["decided_ms"]) / 1000 - begun_s > SLACK_S
        assert learned.smoke() == ""


def test_down_leaves_nothing_behind(podman_lab: PodmanLab, learned: GuardedShop) -> None:
    """After `idm down` no process, container, image, network, socket or bridge of the stack is left."""
    with launching(learned, after="client") as up:
        ended(up)
        pids = learned.pids()
        assert len(pids) == 10
        done = learned.idm("down")
        assert done.returncode == 0, done.stderr
        assert not [name for name, pid in pids.items() if _lives(pid)]
        assert not learned.run_directory.exists()
        assert podman_lab.podman("ps", "--all", "--quiet").stdout == ""
        assert "shop" not in podman_lab.podman("network", "ls", "--format", "{{.Name}}").stdout.split()
        assert "stackmend/shop" not in podman_lab.podman("images", "--format", "{{.Repository}}").stdout
        assert "podman" not in run(["ip", "-n", podman_lab.netns, "-brief", "link"])
