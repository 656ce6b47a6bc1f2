"""The deployer's commands on real containers: executed, measured, interrupted."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dm.v1.rollback_service_pb2 import Command, Revert
from idm.driver import Power
from idm.executor import Executor
from idm.journal import Journal
from idm.lock import holder
from idm.process import marked
from idm.site import open_stack
from idm.stack import Stack
from idm.watch import hand_over
from tests.idm.until import until
from tests.lab.podman import PodmanLab
from tests.lab.tiny import TINY

pytestmark = [
    pytest.mark.lab,
    # podman-py leaves a socket that could not be connected to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*UDSSocket:pytest.PytestUnraisableExceptionWarning"),
]

MANIFEST = """
[stack]
name = "brief"
[network]
subnet = "198.18.68.0/24"
[vcd.one]
image = "{image}"
command = ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"]
[smoke]
vcd = "one"
command = ["/bin/sh", "-c", "{smoke}"]
timeout_s = 5
"""
# Calls nobody at the network's gateway, which a registry has a service on.
CALLER = """
[stack]
name = "brief"
[network]
subnet = "198.18.68.0/24"
[vcd.one]
image = "{image}"
command = ["/bin/sh", "-c", "trap exit TERM; while :; do nc -w 1 198.18.68.1 7009; sleep 0.2; done"]
[naming]
reverse_dns = false
[naming.registry]
location = "{registry}"
"""
# What carrying out a revert may cost beyond the driver's own restore.
OVERHEAD_S = 0.3


class Site:
    """A manifest in a lab, and ``idm`` on it."""

    def __init__(self, lab: PodmanLab, directory: Path, *, smoke: str = "true") -> None:
        self.lab = lab
        self.manifest = directory / "stack.toml"
        self.manifest.write_text(MANIFEST.format(image=lab.image(TINY), smoke=smoke))

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``idm``."""
        files = ["--config", str(self.lab.settings), "-f", str(self.manifest)]
        return [sys.executable, "-m", "idm", *files, *arguments]

    def idm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``idm`` to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=90, check=False
        )


@pytest.fixture
def site(podman_lab: PodmanLab, tmp_path: Path) -> Iterator[Site]:
    """A stack of one container that is taken down at the end."""
    site = Site(podman_lab, tmp_path)
    yield site
    assert site.idm("down").returncode == 0


def _left(stack: Stack) -> list[str]:
    leftovers = [f"process {process.pid}" for process in marked(stack.home.run)]
    leftovers += [f"container of {vcd}" for vcd in stack.driver.instances()]
    return leftovers + ([str(stack.home.run)] if stack.home.run.exists() else [])


def test_revert_costs_hardly_more_than_the_restore(site: Site) -> None:
    """A command takes a real container back, and adds less than a third of a second to what the driver needs."""
    with open_stack(site.manifest, site.lab.settings) as stack:
        stack.home.create()
        stack.driver.prepare()
        stack.driver.define(stack.manifest.vcd["one"])
        stack.driver.start("one")
        stack.driver.execute("one", ["/bin/sh", "-c", "echo good > /state"], timeout_s=10)
        stack.driver.snapshot(["one"], tag="g1-a", golden="g1")
        stack.driver.execute("one", ["/bin/sh", "-c", "echo bad > /state"], timeout_s=10)
        began = time.monotonic()
        stack.driver.restore("one", tag="g1-a")
        alone_s = time.monotonic() - began
        with Journal(stack.home.journal) as journal:
            executor = Executor(
                stack.driver, journal, stack.home, expect=lambda *_: None, changed=lambda: None
            )
            revert = Revert(vcds=["one"], golden="g1", generations={"one": 2})
            began = time.monotonic()
            result = asyncio.run(executor.carry_out(Command(operation="op", token=1, revert=revert)))
            carried_out_s = time.monotonic() - began
        assert (result.problem, result.snapshot) == ("", "g1-a")
        assert stack.driver.execute("one", ["/bin/cat", "/state"], timeout_s=10).output == "good\n"
        assert carried_out_s < alone_s + OVERHEAD_S


def test_killed_watch_leaves_all_running_and_the_next_one_adopts_it(site: Site) -> None:
    """After kill -9 of the watch, manager, agent and container run on, and the next watch takes over the same ones."""
    up = site.idm("up")
    assert up.returncode == 0, up.stderr
    with open_stack(site.manifest, site.lab.settings) as stack:
        children = {p.name: p.read_text() for p in stack.home.run.glob("*.pid") if p.name != "watch.pid"}
        assert children.keys() == {"dm.pid", "agent-one.pid"}
        watch = holder(stack.home.deployer_lock)
        assert watch is not None
        with watch:
            os.kill(watch.pid, signal.SIGKILL)
            assert watch.ended(wait_s=5)
        hand_over(stack.home.run, manifest=site.manifest, config=site.lab.settings)
        assert {
            p.name: p.read_text() for p in stack.home.run.glob("*.pid") if p.name != "watch.pid"
        } == children
        assert stack.driver.instances()["one"].power is Power.RUNNING
        assert site.idm("down").returncode == 0
        assert _left(stack) == []


def test_agents_find_names_as_the_manifest_says(podman_lab: PodmanLab, tmp_path: Path) -> None:
    """A registry of the manifest's reaches the agents: what a container calls has its name there, and no port."""
    site = Site(podman_lab, tmp_path)
    registry = tmp_path / "services.json"
    registry.write_text('[{"service": "ledger", "ip": "198.18.68.1", "port": 7009}]')
    site.manifest.write_text(CALLER.format(image=podman_lab.image(TINY), registry=registry))
    try:
        up = site.idm("up")
        assert up.returncode == 0, up.stderr
        with open_stack(site.manifest, site.lab.settings) as stack:
            command = [sys.executable, "-m", "dm", "graph", "--dm", stack.home.target, "brief"]

            def shown() -> bool:
                text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
                return any(line.split()[:3] == ["one", "ledger", "ledger"] for line in text.splitlines())

            asyncio.run(until(shown))
    finally:
        assert site.idm("down").returncode == 0


def test_launch_that_does_not_become_whole_says_why(podman_lab: PodmanLab, tmp_path: Path) -> None:
    """When the smoke workload does not pass in time, `idm up` ends with 1, the reason in one line, and the way out."""
    site = Site(podman_lab, tmp_path, smoke="echo nobody answers; exit 3")
    try:
        up = site.idm("up", "--deadline", "5")
        assert up.returncode == 1
        assert up.stderr.count("\n") == 1
        assert "the smoke workload does not pass: status 3, nobody answers" in up.stderr
        assert "idm down" in up.stderr
    finally:
        assert site.idm("down").returncode == 0
    with open_stack(site.manifest, site.lab.settings) as stack:
        assert _left(stack) == []


def test_interrupted_launch_can_be_taken_down(podman_lab: PodmanLab, tmp_path: Path) -> None:
    """Ctrl-C during a launch ends it at once with 130 and one line; down leaves nothing."""
    site = Site(podman_lab, tmp_path, smoke="exit 1")
    with open_stack(site.manifest, site.lab.settings) as stack:
        try:
            with subprocess.Popen(site.command("up"), stderr=subprocess.PIPE, text=True) as up:
                asyncio.run(until(lambda: stack.driver.instances().get("one", None), timeout_s=30))
                up.send_signal(signal.SIGINT)
                try:
                    _, error = up.communicate(timeout=20)
                finally:
                    up.kill()
            assert up.returncode == 130
            assert error.startswith("idm: interrupted")
            assert error.count("\n") == 1
        finally:
            assert site.idm("down").returncode == 0
        assert _left(stack) == []


def test_watch_of_a_crashed_deployment_is_cleaned_up(site: Site) -> None:
    """When deployer, manager and agent were all killed, down still leaves nothing."""
    assert site.idm("up").returncode == 0
    with open_stack(site.manifest, site.lab.settings) as stack:
        watch = holder(stack.home.deployer_lock)
        assert watch is not None
        with watch:
            watch.signal(signal.SIGKILL)
        for process in marked(stack.home.run):
            with process:
                process.signal(signal.SIGKILL)
        assert site.idm("down").returncode == 0
        assert _left(stack) == []
