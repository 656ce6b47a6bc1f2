"""The VM lab, for the tests that run in it."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest


@pytest.fixture(scope="session")
def vm_lab() -> Iterator[LibvirtLab]:
    """One private libvirtd for the whole run; tests keep apart by the names and addresses of their guests."""
    if os.geteuid():
        pytest.skip("the VM lab makes namespaces and guests: needs root")
    if shutil.which("libvirtd") is None:
        pytest.skip("libvirtd is not installed: make test-vm installs it")
    with LibvirtLab() as lab:
        yield lab


@pytest.fixture(scope="session")
def agent_guest(vm_lab: LibvirtLab) -> Guest:
    """A guest with the project's code in it."""
    guest = vm_lab.guest("agent", "198.18.0.10", memory_mib=256)
    vm_lab.install(guest)
    return guest
