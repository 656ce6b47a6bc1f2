"""The libvirt driver against guests that run: saved with their memory, taken back, and disturbed on the way."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue

import libvirt
import pytest

from idm import manifest
from idm.driver import DriverError, Power
from idm.drivers.libvirt import LibvirtDriver
from idm.drivers.together import together
from idm.settings import Libvirt
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import run
from tests.vm.deployed import eventually
from tests.vm.locked import locked

pytestmark = pytest.mark.vm

GUESTS = {"drv-one": "198.18.0.51", "drv-two": "198.18.0.52", "drv-three": "198.18.0.53"}
VCDS = ("one", "two", "three")
STACK = """
[stack]
name = "drv"
driver = "libvirt"
[network]
subnet = "198.18.0.0/24"
bridge = "br0"
[vcd.one]
domain = "drv-one"
address = "198.18.0.51"
[vcd.two]
domain = "drv-two"
address = "198.18.0.52"
[vcd.three]
domain = "drv-three"
address = "198.18.0.53"
"""
SERVE = """
import socket
connection, _ = socket.create_server(("", 7001)).accept()
while data := connection.recv(64):
    connection.sendall(data)
"""
CALL = """
import socket, time
with socket.create_connection(("198.18.0.51", 7001), 10) as connection:
    for number in range(10**6):
        connection.sendall(b"x")
        assert connection.recv(64)
        open("/run/count.new", "w").write(str(number))
        __import__("os").rename("/run/count.new", "/run/count")
        time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def driver(vm_lab: LibvirtLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtDriver]:
    """Three guests, adopted, with a connection between two of them, saved as "base"."""
    guests = vm_lab.guests(GUESTS)
    path = tmp_path_factory.mktemp("drv") / "stack.toml"
    path.write_text(STACK)
    stack = manifest.load(path)
    host = Libvirt(uri=vm_lab.uri, directory=str(vm_lab.directory / "vm"))
    with closing(LibvirtDriver(stack, host)) as driver:
        driver.check()
        driver.prepare()
        for vcd in stack.vcd.values():
            driver.define(vcd)
        _shell(driver, "one", f"cat > /run/serve.py <<'X'\n{SERVE}\nX\nsystemd-run python3 /run/serve.py")
        _shell(driver, "one", "until ss -Hltn | grep -q :7001; do sleep 0.1; done")
        _shell(
            driver,
            "two",
            f"cat > /run/call.py <<'X'\n{CALL}\nX\nsystemd-run --unit=call python3 /run/call.py",
        )
        eventually(lambda: _shell(driver, "two", "test -s /run/count && echo yes") == "yes")
        taken = driver.snapshot(VCDS, tag="base", golden="abc")
        assert [(each.vcd, each.golden) for each in taken] == [(v, "abc") for v in sorted(VCDS)]
        assert all(each.size > 30 << 20 for each in taken)
        yield driver
        driver.remove()
        for name in GUESTS:
            domain = vm_lab.connection.lookupByName(name)
            assert domain.snapshotNum() == 0
            assert "stackmend:vcd" not in domain.XMLDesc()
    for guest in guests:
        guest.end()


def test_memory_and_disk_go_back(driver: LibvirtDriver) -> None:
    """What changed after the snapshot is undone, for that VCD alone, and the clock is right soon."""
    for vcd in ("one", "three"):
        _shell(driver, vcd, "touch /run/in-memory /root/on-disk; sync")
    before = driver.instances()
    driver.restore("one", tag="base")
    after = driver.instances()
    assert after["one"].power is Power.RUNNING
    assert after["one"].incarnation != before["one"].incarnation
    assert after["three"] == before["three"]
    assert _shell(driver, "one", "ls /run/in-memory /root/on-disk 2>/dev/null; hostname") == "drv-one"
    assert len(_shell(driver, "three", "ls /run/in-memory /root/on-disk").split()) == 2
    eventually(lambda: abs(float(_shell(driver, "one", "date +%s.%N")) - time.time()) < 1)


def test_a_connection_within_the_group_survives(driver: LibvirtDriver) -> None:
    """Two that were saved and are taken back together go on talking where they were."""
    together(lambda vcd: driver.restore(vcd, tag="base"), ["one", "two"])
    first = int(_shell(driver, "two", "cat /run/count"))
    eventually(lambda: int(_shell(driver, "two", "cat /run/count")) > first + 20, within_s=30)
    assert _shell(driver, "two", "systemctl is-active call") == "active"


@pytest.mark.parametrize("state", ["suspend", "destroy", "kill"])
def test_restore_from_any_state(driver: LibvirtDriver, vm_lab: LibvirtLab, state: str) -> None:
    """A hung, a powered off and a killed guest come back as well."""
    domain = vm_lab.connection.lookupByName("drv-three")
    if state == "kill":
        os.kill(_pid(vm_lab, "drv-three"), signal.SIGKILL)
        eventually(lambda: driver.instances()["three"].power is Power.CRASHED)
    else:
        getattr(domain, state)()
    driver.restore("three", tag="base")
    assert driver.instances()["three"].power is Power.RUNNING
    assert _shell(driver, "three", "hostname") == "drv-three"


def test_going_back_by_hand_is_seen(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """After virsh snapshot-revert the guest runs as another incarnation, events tell of it, and the clock is set."""
    told: Queue[str] = Queue(maxsize=1000)

    def listen() -> None:
        for vcd in driver.events():
            told.put(vcd)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert {told.get(timeout=10) for _ in VCDS} == set(VCDS)
    before = driver.instances()["three"].incarnation
    _virsh(vm_lab, "snapshot-revert", "drv-three", "stackmend-base")
    assert told.get(timeout=10) == "three"
    assert driver.instances()["three"].power is Power.RUNNING
    assert driver.instances()["three"].incarnation != before
    eventually(lambda: abs(float(_shell(driver, "three", "date +%s.%N")) - time.time()) < 1)


def test_a_guest_that_reboots_is_another_incarnation(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """A reset goes on in the same process, and is seen all the same by who listens."""
    before = driver.instances()["three"].incarnation
    vm_lab.connection.lookupByName("drv-three").reset()
    eventually(lambda: driver.instances()["three"].incarnation.startswith(f"{before}."))
    driver.restore("three", tag="base")


def test_commands_run_in_the_guest(driver: LibvirtDriver) -> None:
    """Status and output are returned, a command that is not there is told, and one that hangs is killed."""
    done = driver.execute("one", ["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=10)
    assert (done.status, done.output) == (7, "out\nerr\n")
    assert driver.execute("one", ["/bin/nothing"], timeout_s=5).status == 127
    with pytest.raises(
        DriverError, match=r"^sleep did not end within 1 s in one: allow more, or see why it hangs$"
    ):
        driver.execute("one", ["sleep", "77"], timeout_s=1)
    eventually(lambda: driver.execute("one", ["pgrep", "-f", "sleep 77"], timeout_s=5).status == 1)


def test_a_guest_without_its_agent_is_told(driver: LibvirtDriver) -> None:
    """A command for a guest whose agent is stopped fails in one line that says what to see to."""
    with pytest.raises(DriverError):
        driver.execute("three", ["systemctl", "stop", "qemu-guest-agent"], timeout_s=5)
    with pytest.raises(
        DriverError, match=r"^three cannot run true: .*: see that qemu-guest-agent runs in the VM$"
    ):
        driver.execute("three", ["true"], timeout_s=5)
    driver.restore("three", tag="base")
    assert _shell(driver, "three", "hostname") == "drv-three"


def test_evidence_is_written(driver: LibvirtDriver, tmp_path: Path) -> None:
    """The domain's description and the end of its console are saved."""
    _shell(driver, "one", "echo a clue > /dev/ttyS0")
    paths = driver.evidence("one", tmp_path / "evidence")
    assert [path.name for path in paths] == ["domain.xml", "console.txt"]
    assert "<name>drv-one</name>" in paths[0].read_text()
    assert "a clue" in paths[1].read_text()


def test_a_snapshot_that_an_image_has_lost_is_told(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """What libvirt believes to be there is looked for in the image before the guest is ended."""
    driver.snapshot(["three"], tag="lost", golden="abc")
    driver.stop("three", grace_s=0)
    subprocess.run(["qemu-img", "snapshot", "-d", "stackmend-lost", _disk(vm_lab, "drv-three")], check=True)
    driver.restore("three", tag="base")
    before = driver.instances()
    with pytest.raises(
        DriverError, match=r'drv-three.qcow2 of three has lost snapshot "lost": choose another one$'
    ):
        driver.restore("three", tag="lost")
    assert driver.instances() == before
    driver.delete_snapshot("three", tag="lost")
    assert {snapshot.tag for snapshot in driver.snapshots()} == {"base"}


def test_an_image_in_use_is_told(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """While another process writes to the image nothing is done; afterwards the same restore succeeds."""
    driver.stop("three", grace_s=0)
    with locked(_disk(vm_lab, "drv-three")):
        with pytest.raises(DriverError, match=r"lock.*: end the process that uses it, see fuser$"):
            driver.restore("three", tag="base")
        assert driver.instances()["three"].power is Power.STOPPED
    driver.restore("three", tag="base")
    assert _shell(driver, "three", "hostname") == "drv-three"


def test_external_snapshots_are_refused(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """A guest that somebody has given an external snapshot is neither saved nor taken back."""
    domain = vm_lab.connection.lookupByName("drv-three")
    xml = (
        "<domainsnapshot><name>outside</name><state>disk-snapshot</state><creationTime>1</creationTime>"
        "<disks><disk name='vda' snapshot='external'><source file='/tmp/outside'/></disk></disks>"
        f"{domain.XMLDesc()}</domainsnapshot>"
    )
    outside = domain.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
    before = driver.instances()
    try:
        for call in (
            lambda: driver.restore("three", tag="base"),
            lambda: driver.snapshot(["three"], tag="more", golden="abc"),
        ):
            with pytest.raises(
                DriverError, match=r'^three has external snapshots \("outside"\), and mixing them with'
            ):
                call()
    finally:
        outside.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    assert driver.instances() == before


def test_a_snapshot_that_fails_is_not_kept(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """When one guest cannot be saved, none is, and all run on."""
    domain = vm_lab.connection.lookupByName("drv-three")
    taken = domain.snapshotCreateXML("<domainsnapshot><name>stackmend-twice</name></domainsnapshot>")
    try:
        with pytest.raises(
            DriverError, match=r"^three cannot be saved: .*already exists: look at the disk space"
        ):
            driver.snapshot(VCDS, tag="twice", golden="abc")
    finally:
        if "stackmend-twice" in domain.snapshotListNames():
            taken.delete()
    assert {snapshot.tag for snapshot in driver.snapshots()} == {"base"}
    assert {instance.power for instance in driver.instances().values()} == {Power.RUNNING}


def test_libvirtd_away_is_bridged(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """A restore that finds no daemon waits for it; other calls say what to do."""
    vm_lab.stop_daemon()
    try:
        for call in (driver.instances, driver.snapshots, driver.check):
            with pytest.raises(
                DriverError, match=r"^libvirt (does not answer|went away) at .*: systemctl st"
            ):
                call()
        problems = _in_background(lambda: driver.restore("three", tag="base"))
    finally:
        vm_lab.start_daemon()
    assert problems.get(timeout=60) is None
    assert _shell(driver, "three", "hostname") == "drv-three"


def test_libvirtd_killed_in_the_middle_is_bridged(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """A restore begins anew when the daemon dies between the end of the old guest and the start of the new one."""
    before = driver.instances()
    process = _pid(vm_lab, "drv-three")
    problems = _in_background(lambda: driver.restore("three", tag="base"))
    eventually(lambda: not _runs(process), step_s=0.005)
    vm_lab.stop_daemon()
    vm_lab.start_daemon()
    assert problems.get(timeout=60) is None
    after = driver.instances()
    assert after["three"].incarnation != before["three"].incarnation
    assert (after["one"], after["two"]) == (before["one"], before["two"])
    assert _shell(driver, "three", "hostname") == "drv-three"


def test_libvirtd_killed_while_saving_leaves_no_half(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """A snapshot that the daemon does not survive is kept of no guest, and all run on."""
    problems = _in_background(lambda: driver.snapshot(VCDS, tag="half", golden="abc"))
    eventually(lambda: driver.instances()["one"].power is Power.PAUSED or not problems.empty(), step_s=0.001)
    vm_lab.stop_daemon()
    vm_lab.start_daemon()
    problem = problems.get(timeout=90)
    tags = sorted(snapshot.tag for snapshot in driver.snapshots())
    assert tags == (["base"] * 3 if problem else ["base"] * 3 + ["half"] * 3)
    assert {instance.power for instance in driver.instances().values()} == {Power.RUNNING}
    for vcd in VCDS:
        driver.delete_snapshot(vcd, tag="half")
    assert all("half" not in _inside(_disk(vm_lab, name)) for name in GUESTS)


def test_a_domain_undefined_by_somebody_else_is_told(driver: LibvirtDriver, vm_lab: LibvirtLab) -> None:
    """A guest whose definition is gone would not survive its end, so it is left running; so are all others."""
    domain = vm_lab.connection.lookupByName("drv-three")
    definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    kept = [each.getXMLDesc() for each in domain.listAllSnapshots()]
    before = driver.instances()
    _virsh(vm_lab, "undefine", "--snapshots-metadata", "drv-three")
    try:
        with pytest.raises(
            DriverError, match=r'^domain "drv-three" of three is no longer defined: virsh define it'
        ):
            driver.restore("three", tag="base")
        assert driver.instances() == before
    finally:
        again = vm_lab.connection.defineXML(definition)
        for xml in kept:
            again.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
    driver.restore("three", tag="base")


def _shell(driver: LibvirtDriver, vcd: str, script: str) -> str:
    """The output of a script; a guest that has just been taken back may need a moment to answer."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return driver.execute(vcd, ["sh", "-c", script], timeout_s=20).output.strip()
        except DriverError:
            if time.monotonic() > deadline:
                raise


def _in_background(action: Callable[[], object]) -> "Queue[DriverError | None]":
    ended: Queue[DriverError | None] = Queue(maxsize=1)

    def act() -> None:
        try:
            action()
        except DriverError as e:
            ended.put(e)
        else:
            ended.put(None)

    threading.Thread(target=act, daemon=True).start()
    return ended


def _virsh(lab: LibvirtLab, *arguments: str) -> None:
    subprocess.run(["virsh", "--quiet", "--connect", lab.uri, *arguments], check=True, capture_output=True)


def _disk(lab: LibvirtLab, name: str) -> Path:
    return lab.directory / f"{name}.qcow2"


def _inside(disk: Path) -> str:
    """What snapshots an image has."""
    return run(["qemu-img", "info", "--force-share", str(disk)])


def _pid(lab: LibvirtLab, name: str) -> int:
    return int((lab.directory / "run" / "qemu" / f"{name}.pid").read_text())


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
