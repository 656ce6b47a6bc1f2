"""The libvirt driver with VMs that it makes itself, from their image to nothing again, and with a disk that is full."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from idm import manifest
from idm.driver import DriverError
from idm.drivers.libvirt import LibvirtDriver
from idm.manifest import SnapshotKind
from idm.settings import Libvirt
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import run
from tests.lab.vm_guest import KERNEL_ARGUMENTS
from tests.vm.deployed import eventually

pytestmark = pytest.mark.vm

# On a machine that is busy with other things, too.
BOOT_S = 300.0
ROOM_MIB = 600
# A file system leaves its disk's first sector alone.
MARK = "write -q -P 0x62 0 512"
WRITE = "dd if=/dev/urandom of=/root/large bs=1M count=64 status=none && sync"
MARKED = "head -c512 /dev/vda | tr -d '\\0' | wc -c"
MADE = """
[stack]
name = "{kind}"
driver = "libvirt"
[network]
subnet = "198.18.0.0/24"
bridge = "br0"
[vcd.one]
image = "{disk}"
address = "{address}"
[vcd.one.machine]
memory_mib = 256
kernel = "{kernel}"
initrd = "{initramfs}"
cmdline = "{arguments} lab.name={kind}-one lab.address={address}/24"
graphics = true
[rollback]
snapshot = "{kind}"
"""
ADOPTED = """
[stack]
name = "full"
driver = "libvirt"
[network]
subnet = "198.18.0.0/24"
bridge = "br0"
[vcd.one]
domain = "full-one"
address = "198.18.0.63"
"""
ADDRESSES = {SnapshotKind.OFFLINE: "198.18.0.61", SnapshotKind.OVERLAY: "198.18.0.62"}


@pytest.fixture(scope="module")
def made(vm_lab: LibvirtLab, scratch: Path) -> Iterator[dict[SnapshotKind, LibvirtDriver]]:
    """A VM for each kind of snapshot, which boot together; nothing is left of them at the end."""
    before = _left(vm_lab)
    image = vm_lab.image()
    with ExitStack() as stack:
        drivers = {}
        for kind, address in ADDRESSES.items():
            text = MADE.format(
                **image._asdict(), arguments=KERNEL_ARGUMENTS, kind=kind.value, address=address
            )
            drivers[kind] = stack.enter_context(_drive(vm_lab, text, scratch))
            drivers[kind].start("one")
        for driver in drivers.values():
            eventually(partial(_answers, driver), within_s=BOOT_S)
        yield drivers
    assert _left(vm_lab) == before
    assert not [path for path in scratch.iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where manifests, and the directories of their stacks, are."""
    return tmp_path_factory.mktemp("made")


@pytest.mark.parametrize("kind", list(ADDRESSES))
def test_a_disk_goes_back(
    made: dict[SnapshotKind, LibvirtDriver], scratch: Path, tmp_path: Path, kind: SnapshotKind
) -> None:
    """Saved while it is off, a VM boots again from the disk it had, and its screen is among the evidence."""
    driver = made[kind]
    # The lab's guests boot without it, and it is what heeds a power button.
    _shell(driver, "systemctl unmask systemd-logind && systemctl start systemd-logind")
    _shell(driver, "echo good > /root/state; sync")
    taken = driver.snapshot(["one"], tag="good", golden="abc")
    assert [(each.vcd, each.tag, each.golden) for each in taken] == [("one", "good", "abc")]
    assert taken[0].size > 0
    driver.stop("one", grace_s=0)
    run(["qemu-io", "-c", MARK, str(scratch / kind.value / "one.qcow2")])
    incarnation = driver.instances()["one"].incarnation
    driver.restore("one", tag="good")
    assert driver.instances()["one"].incarnation != incarnation
    eventually(lambda: _answers(driver), within_s=BOOT_S)
    seen = _shell(driver, f"cat /root/state; hostname; {MARKED}")
    assert seen.split() == ["good", f"{kind.value}-one", "0"]
    paths = driver.evidence("one", tmp_path)
    assert [path.name for path in paths] == ["domain.xml", "console.txt", "screen.png"]
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Without room for the memory nothing is kept, and a guest that went back is held; with room all goes on."""
    directory = tmp_path / "small"
    directory.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}M", "tmpfs", str(directory)])
    try:
        # A lab sees the mounts that were there before it.
        with LibvirtLab() as lab:
            lab.guest("full-one", "198.18.0.63", directory=directory)
            with _drive(lab, ADOPTED, tmp_path) as driver:
                _fill_and_save(driver, directory)
    finally:
        run(["umount", str(directory)])


def _fill_and_save(driver: LibvirtDriver, directory: Path) -> None:
    # This one takes what room there is inside the image.
    driver.snapshot(["one"], tag="good", golden="abc")
    filler = directory / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(directory).free - (16 << 20)))
    with pytest.raises(DriverError, match=r"^one cannot be saved: .*: look at the disk space"):
        driver.snapshot(["one"], tag="full", golden="abc")
    assert [snapshot.tag for snapshot in driver.snapshots()] == ["good"]
    filler.unlink()
    # QEMU holds a guest that finds no room for what it writes.
    driver.start("one")
    assert _shell(driver, "hostname") == "full-one"
    driver.snapshot(["one"], tag="more", golden="abc")
    driver.restore("one", tag="good")
    assert _shell(driver, "hostname") == "full-one"
    filler.write_bytes(bytes(shutil.disk_usage(directory).free))
    # Going back inside the image takes no room, but what the guest writes then does.
    driver.restore("one", tag="good")
    eventually(lambda: _is_full(driver) or _begins_to_write(driver), within_s=60)
    eventually(lambda: _is_full(driver), within_s=60)
    assert {snapshot.tag for snapshot in driver.snapshots()} == {"good", "more"}
    filler.unlink()
    driver.start("one")
    assert _shell(driver, f"{WRITE} && hostname") == "full-one"
    assert driver.instances()["one"].held == ""


def _is_full(driver: LibvirtDriver) -> bool:
    return "its disk cannot be written to" in driver.instances()["one"].held


def _begins_to_write(driver: LibvirtDriver) -> bool:
    try:
        return driver.execute("one", ["systemd-run", "sh", "-c", WRITE], timeout_s=5).status == 0
    except DriverError:
        # It may have written something on its own, and stand still.
        return False


@contextmanager
def _drive(lab: LibvirtLab, text: str, directory: Path) -> Iterator[LibvirtDriver]:
    """A driver for this manifest, whose VM is defined, or adopted, in the block."""
    path = directory / "stack.toml"
    path.write_text(text)
    stack = manifest.load(path)
    host = Libvirt(
        uri=lab.uri, directory=str(directory), cpu="qemu64", disk_cache="unsafe", translations_mib=64
    )
    with closing(LibvirtDriver(stack, host)) as driver:
        driver.check()
        driver.prepare()
        try:
            driver.define(stack.vcd["one"])
            yield driver
        finally:
            driver.remove()


def _left(lab: LibvirtLab) -> tuple[list[str], list[str]]:
    """The lab's domains, and the network cards on its bridge."""
    cards = run(["ip", "-n", lab.namespace.name, "-o", "link", "show", "master", "br0"]).splitlines()
    return sorted(domain.name() for domain in lab.connection.listAllDomains()), [
        card.split()[1] for card in cards
    ]


def _answers(driver: LibvirtDriver) -> bool:
    try:
        return driver.execute("one", ["true"], timeout_s=5).status == 0
    except DriverError:
        return False


def _shell(driver: LibvirtDriver, script: str) -> str:
    eventually(lambda: _answers(driver), within_s=60)
    return driver.execute("one", ["sh", "-c", script], timeout_s=60).output.strip()
