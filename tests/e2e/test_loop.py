"""Whole stories on the sample shop: real containers, real BPF, real faults, and the commands that a user types."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from examples.shop import faults
from tests.demo import FAULTS
from tests.examples.guarded import GuardedShop
from tests.lab.podman import PodmanLab

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

INTERVAL_S = 1.0
CALM_S = 8.0
WHOLE_S = 60.0


@pytest.fixture(autouse=True)
def calm(guarded: GuardedShop) -> Iterator[None]:
    """Each story begins and ends with a whole stack."""
    guarded.until(
        lambda: guarded.verdict() == "ok", within_s=WHOLE_S, what="the stack is whole before the story"
    )
    yield
    guarded.until(
        lambda: guarded.verdict() == "ok", within_s=WHOLE_S, what="the stack is whole after the story"
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_taken_back(guarded: GuardedShop, name: str) -> None:
    """The broken machine and no other is blamed and rolled back, and the shop answers rightly again."""
    before = len(guarded.history())
    fault_s = time.time()
    FAULTS[name].apply(guarded)
    guarded.until(
        lambda: len(guarded.history()) > before and guarded.history()[0].get("ended_ms"),
        within_s=WHOLE_S,
        what="the rollback has ended",
    )
    rollback = guarded.history()[0]
    assert (rollback["vcds"], rollback["outcome"]) == ([FAULTS[name].culprit], "ROLLBACK_OUTCOME_RECOVERED")
    assert rollback["suspects"][0]["evidence"]
    assert int(rollback["decided_ms"]) / 1000 > fault_s
    assert guarded.smoke() == ""


def test_a_restart_by_hand_is_left_alone(podman_lab: PodmanLab, guarded: GuardedShop) -> None:
    """An engineer who restarts the database sees no rollback, and the stack is whole again by itself."""
    before = guarded.history()
    podman_lab.podman("restart", "--time", "2", "shop-db")
    watch_calmly(guarded, CALM_S)
    assert guarded.history() == before
    assert guarded.smoke() == ""


def test_a_service_that_its_supervisor_restarts_is_left_alone(guarded: GuardedShop) -> None:
    """A process that dies and comes back by itself within the confirmation window is no fault."""
    before = guarded.history()
    guarded.run("cache", ["sh", "-c", faults.KILL])
    watch_calmly(guarded, CALM_S)
    assert guarded.history() == before


@pytest.mark.parametrize("name", ["dm", "agent-api", "agent-db"])
def test_a_killed_part_comes_back_and_nothing_is_rolled_back(guarded: GuardedShop, name: str) -> None:
    """After kill -9 of the manager or an agent all is as before within one report interval after its restart."""
    before, old = guarded.history(), guarded.pids()
    os.kill(old[name], signal.SIGKILL)
    guarded.until(
        lambda: guarded.pids().get(name, old[name]) != old[name], within_s=10, what=f"{name} is started again"
    )
    took_s = guarded.until(lambda: guarded.verdict() == "ok", within_s=10, what="all is as before")
    # Starting the program, and asking for the verdict, come on top of the interval.
    assert took_s <= INTERVAL_S + 2.0
    watch_calmly(guarded, CALM_S)
    assert guarded.history() == before
    others = {other: pid for other, pid in old.items() if other != name}
    assert others.items() <= guarded.pids().items()


def test_a_killed_deployer_leaves_the_rest_running_and_takes_it_over_again(
    guarded: GuardedShop,
) -> None:
    """Without its deployer the stack goes on and is judged; one started by hand adopts the manager and all agents."""
    old = guarded.pids()
    os.kill(old["watch"], signal.SIGKILL)
    watch_calmly(guarded, 3.0)
    log = guarded.run_directory.parent.parent / "watch-by-hand.log"
    with log.open("wb") as output:
        subprocess.run(["setsid", "--fork", *guarded.idm_command("watch")], stderr=output, check=True)
    guarded.until(lambda: b'"watching"' in log.read_bytes(), within_s=20, what="the new deployer watches")
    adopted = {name: pid for name, pid in guarded.pids().items() if name != "watch"}
    assert adopted == {name: pid for name, pid in old.items() if name != "watch"}
    test_a_fault_is_found_and_taken_back(guarded, "crash")


def watch_calmly(guarded: GuardedShop, seconds: float) -> None:
    """Let time pass; the verdict may not be failed at any moment of it."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert guarded.verdict() != "failed"
        time.sleep(0.2)
