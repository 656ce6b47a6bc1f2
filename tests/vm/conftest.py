"""The VM lab, for the tests that run in it."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.dma.capture.lab import within
from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest
from tests.lab.vm_image import BCC
from tests.vm.workload import OPEN_PORTS

# What differs is told.
pytest.register_assert_rewrite("tests.vm.deployed")

INTERPRETER = "/opt/stackmend/bin/python"
IN_GUEST = "/var/tmp/workload.py"
AGENT_ADDRESS = "198.18.0.10"


# What is likeliest to fail is told first; guests that others share are made last.
ORDER = ("up", "seat", "shop", "driver_libvirt", "driver_made", "delivery", "lab", "report", "agent")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order this directory's modules; other tests stay where they are, before them."""
    places = {Path(__file__).with_name(f"test_{name}.py"): place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path, -1))


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
    """A guest with the project's code and the known workload in it."""
    guest = vm_lab.guest("agent", AGENT_ADDRESS, product=True)
    guest.agent.write(IN_GUEST, Path(__file__).with_name("workload.py").read_bytes())
    return guest


@pytest.fixture(scope="session")
def compiling_guest(vm_lab: LibvirtLab) -> Guest:
    """A guest with bcc and the headers of its kernel, and the project's code."""
    guest = vm_lab.guest("compiling", "198.18.0.11", memory_mib=512, flavour=BCC)
    vm_lab.install(guest)
    return guest


@pytest.fixture(scope="session")
def server(vm_lab: LibvirtLab) -> Iterator[str]:
    """The lab's own address, where the workload's open ports accept connections."""
    gateway = str(vm_lab.gateway.ip)

    def listen(port: int) -> socket.socket:
        return within(vm_lab.namespace.name, lambda: socket.create_server((gateway, port), backlog=64))

    with ExitStack() as stack:
        for port in OPEN_PORTS:
            stack.enter_context(listen(port))
        yield gateway
