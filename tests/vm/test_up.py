"""`idm up` on guests that run: agents are delivered, the stack is learned, taken back, and left as it was."""

from collections.abc import Iterator

import libvirt
import pytest

from dm.v1.stack_pb2 import VERDICT_OK
from idm.delivery.agent import CERTIFICATE, CONFIGURATION, UNIT
from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest
from tests.vm.deployed import Idm, eventually, let_call, traces

pytestmark = pytest.mark.vm

GUESTS = {"up-web": "198.18.0.71", "up-db": "198.18.0.72"}
STACK = """
[stack]
name = "up"
driver = "libvirt"

[network]
subnet = "198.18.0.0/24"
bridge = "br0"

[agent]
interval_ms = 2000

[vcd.web]
domain = "up-web"
address = "198.18.0.71"
after = ["db"]

[vcd.db]
domain = "up-db"
address = "198.18.0.72"
"""
INTERVAL_MS = 2000
WHOLE_S = 60


@pytest.fixture(scope="module")
def guests(vm_lab: LibvirtLab) -> Iterator[dict[str, Guest]]:
    """Two guests that run already, one calling the other, with the agent's program but nothing of a stack."""
    made = {guest.name: guest for guest in vm_lab.guests(GUESTS, product=True)}
    let_call(made["up-web"], made["up-db"])
    yield made
    for guest in made.values():
        guest.end()


@pytest.fixture(scope="module")
def idm(
    vm_lab: LibvirtLab, guests: dict[str, Guest], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Idm]:
    """For a stack of the two, which is up; at the end it is down, and the guests are as they were."""
    before = {name: traces(vm_lab, guest) for name, guest in guests.items()}
    manifest = tmp_path_factory.mktemp("up") / "stack.toml"
    manifest.write_text(STACK)
    idm = Idm(vm_lab, manifest, stack="up")
    assert "2 VCDs are started, 2 agents watch them" in idm("up")
    yield idm
    assert idm("down") == "up is down\n"
    assert {name: traces(vm_lab, guest) for name, guest in guests.items()} == before
    assert not (vm_lab.directory / "idm" / "up").exists()


def test_running_guests_are_taken_in(idm: Idm, guests: dict[str, Guest]) -> None:
    """Domains that run go on running; their agents are services that report, and their keys are root's alone."""
    assert idm.status().stack == "up"
    for guest in guests.values():
        assert float(guest.run("cut", "-d ", "-f1", "/proc/uptime").stdout) > 10
        assert guest.run("stat", "-c%a", CERTIFICATE, CONFIGURATION).stdout.split() == ["600", "644"]
        assert guest.run("systemctl", "is-active", UNIT).stdout == "active\n"


def test_a_memory_revert_is_whole_again_soon(idm: Idm, guests: dict[str, Guest]) -> None:
    """Taken back with its memory, a guest's old agent is heard and its dependencies stand in two report intervals."""
    idm("capture")
    guests["up-web"].run("touch", "/run/gone")
    idm("rollback", "web", "--yes")
    eventually(lambda: idm.status().verdict == VERDICT_OK, within_s=WHOLE_S)
    assert guests["up-web"].run("test", "-e", "/run/gone", check=False).returncode == 1
    assert abs(guests["up-web"].agent.clock_offset_s()) < 1
    began_ms = idm.events("instance", vcd="web")[-1]["time_ms"]
    whole_ms = idm.events("verdict")[-1]["time_ms"]
    assert int(whole_ms) - int(began_ms) < 2 * INTERVAL_MS


def test_somebody_elses_revert_is_noticed(idm: Idm, vm_lab: LibvirtLab, guests: dict[str, Guest]) -> None:
    """Taken back by hand, a VM is told as such and comes up again; nothing is rolled back for it."""
    rollbacks = idm("history")
    domain = vm_lab.connection.lookupByName("up-db")
    (snapshot,) = domain.listAllSnapshots()
    domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
    eventually(
        lambda: [event["vcd"] for event in idm.events("external rollback")] == ["db"], within_s=WHOLE_S
    )
    eventually(lambda: idm.status().verdict == VERDICT_OK, within_s=WHOLE_S)
    assert abs(guests["up-db"].agent.clock_offset_s()) < 1
    assert idm("history") == rollbacks
