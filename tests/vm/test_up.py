"""`idm up` on guests that run: agents are delivered, the stack is learned, taken back, and left as it was."""

from collections.abc import Iterator

import libvirt
import pytest

from dm.v1.stack_pb2 import VERDICT_OK
from idm.delivery.agent import CERTIFICATE, CONFIGURATION, UNIT
from tests.lab.libvirt import LibvirtLab
from tests.vm.deployed import Deployed, deployed, eventually

pytestmark = pytest.mark.vm

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
def stack(vm_lab: LibvirtLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The two, one calling the other, with the agent's program and nothing of a stack until it is up."""
    manifest = tmp_path_factory.mktemp("up") / "stack.toml"
    manifest.write_text(STACK)
    with deployed(vm_lab, manifest, caller="web", server="db") as stack:
        yield stack


def test_running_guests_are_taken_in(stack: Deployed) -> None:
    """Domains that run go on running; their agents are services that report, and their keys are root's alone."""
    assert stack.idm.status().stack == "up"
    for guest in stack.guests.values():
        assert float(guest.run("cut", "-d ", "-f1", "/proc/uptime").stdout) > 10
        assert guest.run("stat", "-c%a", CERTIFICATE, CONFIGURATION).stdout.split() == ["600", "644"]
        assert guest.run("systemctl", "is-active", UNIT).stdout == "active\n"


def test_a_memory_revert_is_whole_again_soon(stack: Deployed) -> None:
    """Taken back with its memory, a guest's old agent is heard and its dependencies stand in two report intervals."""
    stack.idm("capture")
    stack.guests["web"].run("touch", "/run/gone")
    stack.idm("rollback", "web", "--yes")
    eventually(lambda: stack.idm.status().verdict == VERDICT_OK, within_s=WHOLE_S)
    assert stack.guests["web"].run("test", "-e", "/run/gone", check=False).returncode == 1
    assert abs(stack.guests["web"].agent.clock_offset_s()) < 1
    began_ms = stack.idm.events("instance", vcd="web")[-1]["time_ms"]
    whole_ms = stack.idm.events("verdict")[-1]["time_ms"]
    assert int(whole_ms) - int(began_ms) < 2 * INTERVAL_MS


def test_somebody_elses_revert_is_noticed(stack: Deployed, vm_lab: LibvirtLab) -> None:
    """Taken back by hand, a VM is told as such and comes up again; nothing is rolled back for it."""
    rollbacks = stack.idm("history")
    domain = vm_lab.connection.lookupByName("up-db")
    (snapshot,) = domain.listAllSnapshots()
    domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
    eventually(
        lambda: [event["vcd"] for event in stack.idm.events("external rollback")] == ["db"], within_s=WHOLE_S
    )
    eventually(lambda: stack.idm.status().verdict == VERDICT_OK, within_s=WHOLE_S)
    assert abs(stack.guests["db"].agent.clock_offset_s()) < 1
    assert stack.idm("history") == rollbacks
