"""Snapshots of made VMs as layers of their disks, under libvirt's own test hypervisor."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from idm.driver import DriverError, Power
from idm.drivers import qcow2
from idm.drivers.libvirt import LibvirtDriver
from tests.lab.namespace import run


def test_layers_are_discarded(driver: LibvirtDriver, base: Path, tmp_path: Path) -> None:
    """A snapshot freezes the disk below a fresh layer, and going back replaces that layer alone."""
    taken = driver.snapshot(["one", "two"], tag="first", golden="abc")
    assert [(snapshot.vcd, snapshot.tag, snapshot.golden) for snapshot in taken] == [
        ("one", "first", "abc"),
        ("two", "first", "abc"),
    ]
    assert {instance.power for instance in driver.instances().values()} == {Power.RUNNING}
    disk, layer = tmp_path / "vm/tiny/one.qcow2", tmp_path / "vm/tiny/one.first.layer"
    assert _chain(disk) == [disk, layer, base]
    inode = disk.stat().st_ino
    before = driver.instances()
    driver.restore("one", tag="first")
    after = driver.instances()
    assert disk.stat().st_ino != inode
    assert _chain(disk) == [disk, layer, base]
    assert after["one"].incarnation != before["one"].incarnation
    assert after["two"] == before["two"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_no_room_for_a_fresh_layer_is_told(driver: LibvirtDriver, tmp_path: Path) -> None:
    """A disk that is full when a VM goes back leaves its own disk and the other VM alone; with room it goes back."""
    directory = tmp_path / "vm/tiny"
    driver.snapshot(["one", "two"], tag="first", golden="abc")
    kept = _chain(directory / "one.qcow2")
    other = driver.instances()["two"]
    with _full(directory):
        with pytest.raises(
            DriverError, match=r"^one is off and could not .*No space left on device: make room on that file"
        ):
            driver.restore("one", tag="first")
        assert driver.instances()["one"].power is Power.STOPPED
        assert _chain(directory / "one.qcow2") == kept
        assert [snapshot.tag for snapshot in driver.snapshots()] == ["first", "first"]
    driver.restore("one", tag="first")
    assert driver.instances()["one"].power is Power.RUNNING
    assert driver.instances()["two"] == other


@contextmanager
def _full(directory: Path) -> Iterator[None]:
    """Nothing can be written there; what is there can still be read and renamed."""
    aside = directory.with_name("aside")
    directory.rename(aside)
    directory.mkdir(mode=0o711)
    run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", str(directory)])
    try:
        run(["cp", "--sparse=always", *map(str, aside.iterdir()), str(directory)])
        (directory / "filler").write_bytes(bytes(shutil.disk_usage(directory).free))
        yield
    finally:
        run(["umount", str(directory)])
        directory.rmdir()
        aside.rename(directory)


def test_a_layer_that_is_stood_on_goes_later(driver: LibvirtDriver, base: Path, tmp_path: Path) -> None:
    """Deleting a snapshot leaves its layer to what was written since; the next deletion takes both."""
    directory = tmp_path / "vm/tiny"
    driver.snapshot(["one"], tag="first", golden="abc")
    driver.snapshot(["one"], tag="second", golden="abc")
    driver.delete_snapshot("one", tag="first")
    driver.delete_snapshot("one", tag="never")
    assert [snapshot.tag for snapshot in driver.snapshots()] == ["second"]
    assert _chain(directory / "one.qcow2")[1:] == [
        directory / "one.second.layer",
        directory / "one.first.layer",
        base,
    ]
    driver.snapshot(["one"], tag="third", golden="abc")
    driver.delete_snapshot("one", tag="second")
    driver.restore("one", tag="third")
    driver.destroy("one")
    assert [path.name for path in directory.iterdir()] == ["two.qcow2"]


def test_a_lost_layer_touches_nothing(driver: LibvirtDriver, tmp_path: Path) -> None:
    """The snapshot is looked at, down to its base, before the running VM is ended."""
    driver.snapshot(["one"], tag="first", golden="abc")
    before = driver.instances()
    with pytest.raises(
        DriverError, match=r'^one has no snapshot "lost": choose one that idm snapshots lists$'
    ):
        driver.restore("one", tag="lost")
    layer = tmp_path / "vm/tiny/one.first.layer"
    layer.rename(tmp_path / "aside")
    with pytest.raises(
        DriverError, match=r'one.first.layer, snapshot "first" of one, is lost: choose another one$'
    ):
        driver.restore("one", tag="first")
    (tmp_path / "aside").rename(layer)
    base = tmp_path / "base.qcow2"
    base.rename(tmp_path / "aside")
    with pytest.raises(
        DriverError, match=r"base.qcow2': No such file or directory: bring it back, or name another"
    ):
        driver.restore("one", tag="first")
    (tmp_path / "aside").rename(base)
    assert driver.instances() == before


def _chain(path: Path) -> list[Path]:
    return [Path(image.filename) for image in qcow2.chain(path, shared=True)]
