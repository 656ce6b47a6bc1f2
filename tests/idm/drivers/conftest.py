"""Drivers on libvirt's own test hypervisor, which has domains but runs nothing."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import libvirt
import pytest

from idm import manifest
from idm.drivers.libvirt import LibvirtDriver
from idm.settings import Libvirt
from tests.idm.drivers.tiny import STACK, URI


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[libvirt.virConnect]:
    """As long as this connection is open, libvirt's test hypervisor remembers what is done to it."""
    connection = libvirt.open(URI)
    yield connection
    connection.close()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An image to make VMs from."""
    path = tmp_path / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M"], check=True)
    return path


@pytest.fixture
def opened(
    hypervisor: libvirt.virConnect, base: Path, tmp_path: Path
) -> Iterator[Callable[..., LibvirtDriver]]:
    """Opens drivers of manifests, and removes their stacks at the end."""
    assert hypervisor.isAlive()
    drivers: list[LibvirtDriver] = []

    def open_driver(text: str = STACK, **values: str) -> LibvirtDriver:
        path = tmp_path / "stack.toml"
        path.write_text(text.format(base=base, **values))
        driver = LibvirtDriver(manifest.load(path), Libvirt(uri=URI, directory=str(tmp_path / "vm")))
        drivers.append(driver)
        return driver

    yield open_driver
    for driver in drivers:
        with closing(driver):
            driver.remove()


@pytest.fixture
def driver(opened: Callable[..., LibvirtDriver], tmp_path: Path) -> LibvirtDriver:
    """Two VMs that run."""
    driver = opened()
    stack = manifest.load(tmp_path / "stack.toml")
    driver.check()
    driver.prepare()
    for vcd in stack.vcd.values():
        driver.define(vcd)
        driver.start(vcd.name)
    return driver
