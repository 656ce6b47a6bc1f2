"""`idm up` on guests that run: agents are delivered, the stack is learned, taken back, and left as it was."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
import pytest

from dm.v1.stack_pb2 import VERDICT_INCONCLUSIVE, VERDICT_OK
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
# More than twice what confirms a failure.
HELD_S = 8


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


def test_a_machine_that_boots_is_waited_for(stack: Deployed, vm_lab: LibvirtLab) -> None:
    """One that was reset has failed only when its agent is back and its server, which nobody starts again, is not."""
    agents, rollbacks = (len(stack.idm.events(kind)) for kind in ("agent", "rollback"))

    def rolled_back() -> list[str]:
        return [event["message"] for event in stack.idm.events("rollback")[rollbacks:]]

    vm_lab.connection.lookupByName("up-db").reset()
    eventually(lambda: "recovered" in " ".join(rolled_back()), within_s=3 * WHOLE_S, step_s=1)
    told = stack.idm.events("agent")[agents:]
    back = next(event for event in told if event["message"] == "the agent of db is here")
    assert int(back["time_ms"]) < int(stack.idm.events("rollback")[rollbacks]["time_ms"])


@contextmanager
def by_hand(stack: Deployed, *, told: int) -> Iterator[None]:
    """What is done to the database in the block ends with a whole stack, for which nothing was rolled back.

    Of so many external rollbacks is told meanwhile.
    """
    rollbacks, before = stack.idm("history"), len(stack.idm.events("external rollback"))
    yield
    eventually(
        lambda: stack.idm.status().verdict == VERDICT_OK and runs(stack, "db"), within_s=WHOLE_S, step_s=0.5
    )
    assert [event["vcd"] for event in stack.idm.events("external rollback")[before:]] == ["db"] * told
    assert abs(stack.guests["db"].agent.clock_offset_s()) < 1
    assert stack.idm("history") == rollbacks


def runs(stack: Deployed, vcd: str) -> bool:
    """Whether the manager takes it for running."""
    return bool(stack.idm.events("instance", vcd=vcd)[-1]["message"].startswith(f"{vcd} is running"))


def hold(stack: Deployed, why: str) -> None:
    """See that the stack is not judged because of that, for much longer than a failure is confirmed."""
    eventually(lambda: why in " ".join(stack.idm.status().reasons), within_s=WHOLE_S)
    until = time.monotonic() + HELD_S
    eventually(lambda: time.monotonic() > until, within_s=2 * HELD_S, step_s=1)
    status = stack.idm.status()
    assert (status.verdict, why in " ".join(status.reasons)) == (VERDICT_INCONCLUSIVE, True)


def test_somebody_elses_revert_is_noticed(stack: Deployed, vm_lab: LibvirtLab) -> None:
    """Taken back by hand, a VM is told as such and comes up again; nothing is rolled back for it."""
    domain = vm_lab.connection.lookupByName("up-db")
    (snapshot,) = domain.listAllSnapshots()
    with by_hand(stack, told=1):
        domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)


def test_who_takes_a_machine_back_may_take_his_time(stack: Deployed, vm_lab: LibvirtLab) -> None:
    """A VM that is taken back and left standing is nobody's fault until it goes on."""
    domain = vm_lab.connection.lookupByName("up-db")
    (snapshot,) = domain.listAllSnapshots()
    with by_hand(stack, told=1):
        domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED)
        hold(stack, "db was taken back to a snapshot and stands still: virsh resume it")
        domain.resume()


def test_a_saved_machine_is_not_taken_back(stack: Deployed, vm_lab: LibvirtLab) -> None:
    """What virsh managedsave has kept is not thrown away, and goes on later."""
    domain = vm_lab.connection.lookupByName("up-db")
    with by_hand(stack, told=0):
        domain.managedSave()
        hold(stack, "db is saved and off: virsh start it")
        domain.create()
