"""The libvirt driver with a VM that it makes itself: from an image to nothing again."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from idm import manifest
from idm.driver import DriverError, Power
from idm.drivers.libvirt import LibvirtDriver
from idm.manifest import SnapshotKind
from idm.settings import Libvirt
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import run
from tests.lab.vm_guest import KERNEL_ARGUMENTS

pytestmark = pytest.mark.vm

BOOT_S = 120.0
ROOM_MIB = 400
STACK = """
[stack]
name = "made"
driver = "libvirt"
[network]
subnet = "198.18.0.0/24"
bridge = "br0"
[vcd.one]
image = "{disk}"
address = "198.18.0.61"
[vcd.one.machine]
memory_mib = 256
kernel = "{kernel}"
initrd = "{initramfs}"
cmdline = "{arguments} lab.name=made-one lab.address=198.18.0.61/24"
graphics = true
[rollback]
snapshot = "{kind}"
"""


@contextmanager
def made(lab: LibvirtLab, kind: SnapshotKind, directory: Path, scratch: Path) -> Iterator[LibvirtDriver]:
    """A VM of its own that has booted, its disk in that directory."""
    path = scratch / "stack.toml"
    image = lab.image()
    path.write_text(STACK.format(**image._asdict(), arguments=KERNEL_ARGUMENTS, kind=kind.value))
    stack = manifest.load(path)
    host = Libvirt(
        uri=lab.uri, directory=str(directory), cpu="qemu64", disk_cache="unsafe", translations_mib=64
    )
    with closing(LibvirtDriver(stack, host)) as driver:
        driver.check()
        driver.prepare()
        driver.define(stack.vcd["one"])
        driver.start("one")
        try:
            _eventually(lambda: _answers(driver), timeout_s=BOOT_S)
            yield driver
        finally:
            driver.remove()


@pytest.mark.parametrize("kind", [SnapshotKind.OFFLINE, SnapshotKind.OVERLAY])
def test_a_disk_goes_back(vm_lab: LibvirtLab, tmp_path: Path, kind: SnapshotKind) -> None:
    """Saved while it is off, a VM boots again from the disk it had; nothing of it is left at the end."""
    before = _left(vm_lab)
    with made(vm_lab, kind, tmp_path / "vm", tmp_path) as driver:
        # The lab's guests boot without it, and it is what heeds a power button.
        _shell(driver, "systemctl unmask systemd-logind && systemctl start systemd-logind")
        _shell(driver, "echo good > /root/state; sync")
        taken = driver.snapshot(["one"], tag="good", golden="abc")
        assert [(each.vcd, each.tag, each.golden) for each in taken] == [("one", "good", "abc")]
        assert taken[0].size > 0
        _eventually(lambda: _answers(driver), timeout_s=BOOT_S)
        _shell(driver, "echo bad > /root/state; sync")
        incarnation = driver.instances()["one"].incarnation
        driver.restore("one", tag="good")
        assert driver.instances()["one"].incarnation != incarnation
        _eventually(lambda: _answers(driver), timeout_s=BOOT_S)
        assert _shell(driver, "cat /root/state; hostname").split() == ["good", "made-one"]
        assert [path.name for path in driver.evidence("one", tmp_path / "evidence")] == [
            "domain.xml",
            "console.txt",
            "screen.png",
        ]
        assert (tmp_path / "evidence" / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert _left(vm_lab) == before
    assert not (tmp_path / "vm" / "made").exists()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Without room for the memory nothing is kept, the guest runs on, and with room the next one is."""
    directory = tmp_path / "small"
    directory.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}M", "tmpfs", str(directory)])
    try:
        # A lab sees the mounts that were there before it.
        with LibvirtLab() as lab, made(lab, SnapshotKind.MEMORY, directory, tmp_path) as driver:
            filler = directory / "filler"
            filler.write_bytes(bytes(shutil.disk_usage(directory).free - (16 << 20)))
            with pytest.raises(DriverError, match=r"^one cannot be saved: .*: look at the disk space"):
                driver.snapshot(["one"], tag="full", golden="abc")
            assert driver.snapshots() == []
            assert driver.instances()["one"].power is Power.RUNNING
            assert _shell(driver, "hostname") == "made-one"
            filler.unlink()
            driver.snapshot(["one"], tag="good", golden="abc")
            driver.restore("one", tag="good")
            assert _shell(driver, "hostname") == "made-one"
    finally:
        run(["umount", str(directory)])


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
    _eventually(lambda: _answers(driver))
    return driver.execute("one", ["sh", "-c", script], timeout_s=20).output.strip()


def _eventually(fact: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline
        threading.Event().wait(0.2)
