"""Whole stories on the shop's guests: what happens to machines, and what is in the way of taking them back."""

import os
import re
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import libvirt
import pytest

from idm.delivery.agent import UNIT
from idm.manifest import load
from tests.demo import GUEST_FAULTS
from tests.examples import shop
from tests.examples.guarded import GuardedGuests, shop_guests
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import run
from tests.vm.locked import locked

pytestmark = [pytest.mark.vm, pytest.mark.kernel]

# On a machine that is busy with other things, too.
WHOLE_S = 240.0
ROLLBACK_S = 300.0
MANY_TRIES = "\n[rollback]\nattempts_per_vcd = 100\nattempts_per_stack = 100\ncooldown_s = 1\n"
# Which older kernels have, too; agents that may choose take another one here.
PLAN = '\n[agent]\nplan = "kprobe"\n'
# Debian keeps kprobes for CAP_SYS_ADMIN, which the agent's service does not have.
ALLOW = ("sysctl", "--quiet", "--write", "kernel.perf_event_paranoid=2")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedGuests]:
    """The shop in a lab of its own, up, learned and guarded; stories may be told one after the other."""
    manifest: Path = tmp_path_factory.mktemp("shop") / "guests.toml"
    manifest.write_text(shop.GUESTS.read_text() + MANY_TRIES + PLAN)
    with LibvirtLab(gateway=shop.GATEWAY) as lab, shop_guests(lab, manifest=manifest) as guarded:
        for vcd in load(manifest).vcd:
            guarded.run(vcd, ALLOW)
        for command in ("up", "capture"):
            done = guarded.idm(command)
            assert done.returncode == 0, done.stdout + done.stderr
        yield guarded


@pytest.fixture(autouse=True)
def calm(guarded: GuardedGuests) -> Iterator[None]:
    """Each story begins with a whole stack, and ends with one."""
    whole = "the stack is whole"
    guarded.until(lambda: guarded.verdict() == "ok", within_s=WHOLE_S, what=whole)
    yield
    guarded.until(lambda: guarded.verdict() == "ok", within_s=WHOLE_S, what=whole)


def test_agents_hook_in_by_kprobes(guarded: GuardedGuests) -> None:
    """The plan that the manifest names is the one that every agent has attached."""
    for vcd in load(guarded.manifest).vcd:
        journal = guarded.place.execute(vcd, ("journalctl", "--unit", UNIT, "--output", "cat")).stdout
        plans = [line for line in journal.splitlines() if '"attached"' in line]
        assert plans
        assert all('"plan":"kprobe"' in line for line in plans)


@pytest.mark.parametrize("name", GUEST_FAULTS)
def test_a_fault_is_found_and_taken_back(guarded: GuardedGuests, name: str) -> None:
    """The broken machine and no other is blamed and rolled back once, and the shop answers rightly again."""
    before = len(guarded.history())
    GUEST_FAULTS[name].apply(guarded)
    guarded.until(
        lambda: len(guarded.history()) > before and guarded.history()[0].get("ended_ms"),
        within_s=WHOLE_S,
        what="the rollback has ended",
    )
    rollback = guarded.history()[0]
    assert rollback["vcds"] == [GUEST_FAULTS[name].culprit], rollback
    assert rollback["outcome"] == "ROLLBACK_OUTCOME_RECOVERED", rollback
    assert guarded.smoke() == ""
    assert len(guarded.history()) == before + 1


@contextmanager
def _lost(guarded: GuardedGuests, domain: libvirt.virDomain) -> Iterator[None]:
    """The image has no snapshot any more."""
    domain.destroy()
    disk = _disk(guarded, domain)
    (tag,) = domain.snapshotListNames()
    kept = disk.with_suffix(".kept")
    run(["cp", "--sparse=always", str(disk), str(kept)])
    run(["qemu-img", "snapshot", "-d", tag, str(disk)])
    yield
    kept.rename(disk)


@contextmanager
def _locked(guarded: GuardedGuests, domain: libvirt.virDomain) -> Iterator[None]:
    """Another process writes to the image."""
    domain.destroy()
    with locked(_disk(guarded, domain)):
        yield


@contextmanager
def _undefined(guarded: GuardedGuests, domain: libvirt.virDomain) -> Iterator[None]:
    """Somebody has undefined the domain, which runs on."""
    definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    kept = [each.getXMLDesc() for each in domain.listAllSnapshots()]
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    yield
    again = guarded.place.lab.connection.defineXML(definition)
    for xml in kept:
        again.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)


class Obstacle(NamedTuple):
    """What is in the way of a rollback, and what the user reads of it."""

    present: Callable[[GuardedGuests, libvirt.virDomain], AbstractContextManager[None]]
    told: str


OBSTACLES = {
    "lost": Obstacle(_lost, r"shop-cache\.qcow2 of cache has lost snapshot .*: choose another one"),
    "locked": Obstacle(_locked, r"lock.*: end the process that uses it, see fuser"),
    "undefined": Obstacle(_undefined, r'domain "shop-cache" of cache is no longer defined: virsh define it'),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_is_in_the_way_is_told_and_once_it_is_gone_all_is_well(
    guarded: GuardedGuests, name: str
) -> None:
    """A rollback that cannot be carried out ends as failed and touches no other domain; a later one succeeds."""
    obstacle = OBSTACLES[name]
    with _by_hand(guarded):
        domain = guarded.place.lab.connection.lookupByName("shop-cache")
        before = _others(guarded)
        with obstacle.present(guarded, domain):
            failed = guarded.idm("rollback", "--yes", "cache")
            assert failed.returncode == 1
            assert re.search(obstacle.told, failed.stdout + failed.stderr), failed
            told = guarded.history()[0]
            assert told["outcome"] == "ROLLBACK_OUTCOME_REVERT_FAILED"
            assert re.search(obstacle.told, told["detail"])
        done = guarded.idm("rollback", "--yes", "cache")
        assert done.returncode == 0, done
        assert _others(guarded) == before
        assert guarded.smoke() == ""


def test_a_rollback_goes_on_when_libvirtd_is_killed_in_the_middle(guarded: GuardedGuests) -> None:
    """With the daemon away between the old guest's end and the new one's beginning, the rollback still succeeds."""
    lab = guarded.place.lab
    before = _others(guarded)
    with _by_hand(guarded), _pidfd(_process(lab, "shop-cache")) as old:
        rollback = subprocess.Popen(
            guarded.idm_command("rollback", "--yes", "cache"), stdout=subprocess.PIPE, text=True
        )
        assert select.select([old], [], [], ROLLBACK_S)[0]
        lab.stop_daemon()
        lab.start_daemon()
        said, _ = rollback.communicate(timeout=ROLLBACK_S)
        assert rollback.returncode == 0, said
    assert guarded.history()[0]["outcome"] == "ROLLBACK_OUTCOME_RECOVERED"
    assert _others(guarded) == before


@contextmanager
def _by_hand(guarded: GuardedGuests) -> Iterator[None]:
    """Nothing is rolled back by itself in the block."""
    guarded.idm("guard", "off")
    try:
        yield
    finally:
        guarded.idm("guard", "on")


def _others(guarded: GuardedGuests) -> dict[str, int]:
    """The processes of the domains but that of the cache."""
    names = [domain.name() for domain in guarded.place.lab.connection.listAllDomains()]
    return {name: _process(guarded.place.lab, name) for name in names if name != "shop-cache"}


def _process(lab: LibvirtLab, name: str) -> int:
    return int((lab.directory / "run" / "qemu" / f"{name}.pid").read_text())


@contextmanager
def _pidfd(process: int) -> Iterator[int]:
    """Something that becomes readable when the process ends."""
    pidfd = os.pidfd_open(process)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _disk(guarded: GuardedGuests, domain: libvirt.virDomain) -> Path:
    return guarded.place.lab.directory / f"{domain.name()}.qcow2"
