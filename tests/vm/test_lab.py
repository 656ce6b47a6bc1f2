"""The VM lab itself: guests are machines of their own, and nothing of them outlives their lab."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.dma.capture.lab import within
from tests.lab.libvirt import BASE, LibvirtLab, members
from tests.lab.namespace import NAMESPACES
from tests.lab.vm_guest import Guest

pytestmark = pytest.mark.vm

ADDRESSES = {"one": "198.18.0.21", "two": "198.18.0.22", "three": "198.18.0.23"}
PORT = 7000
READY_S = 20
CALL = "import socket; print(socket.create_connection(('{}', {}), 10).recv(64).decode())"
KILLED = """
import os, signal
from tests.lab.libvirt import LibvirtLab
with LibvirtLab() as lab:
    lab.guest("left", "198.18.0.30")
    print(lab.namespace.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def guests(vm_lab: LibvirtLab) -> Iterator[list[Guest]]:
    """Three at once."""
    guests = vm_lab.guests(ADDRESSES)
    yield guests
    for guest in guests:
        guest.end()


def test_copies_are_machines_of_their_own(guests: list[Guest]) -> None:
    """Guests copied from one have their own name, link address and random numbers, and the right time."""
    assert [guest.run("hostname").stdout.strip() for guest in guests] == list(ADDRESSES)
    links = [guest.run("cat", "/sys/class/net/eth0/address").stdout for guest in guests]
    assert len(set(links)) == len(guests)
    drawn = [guest.run("head", "-c16", "/proc/sys/kernel/random/uuid").stdout for guest in guests]
    assert len(set(drawn)) == len(guests)
    assert all(abs(guest.agent.clock_offset_s()) < 1 for guest in guests)
    assert all(guest.domain.snapshotNum() == 0 for guest in guests)


def test_guests_reach_each_other_and_the_lab(vm_lab: LibvirtLab, guests: list[Guest]) -> None:
    """TCP passes from guest to guest and from guest to the lab's namespace."""
    serve = f"import socket; s = socket.create_server(('', {PORT})); s.accept()[0].send(b'from one')"
    guests[0].agent.start(("python3", "-c", serve))
    guests[0].run("sh", "-c", f"until ss -Hltn | grep -q :{PORT}; do sleep 0.1; done", timeout_s=20)
    assert guests[1].run("python3", "-c", CALL.format(guests[0].address, PORT)).stdout == "from one\n"
    gateway = str(vm_lab.gateway.ip)
    with within(vm_lab.namespace.name, lambda: socket.create_server((gateway, PORT))) as listener:
        calling = guests[2].agent.start(("python3", "-c", CALL.format(gateway, PORT)))
        listener.settimeout(20)
        connection, (caller, _) = listener.accept()
        with connection:
            connection.send(b"from the lab")
        assert caller == ADDRESSES["three"]
        assert guests[2].agent.wait_for(calling, "the call", timeout_s=20).out == b"from the lab\n"


def test_guests_outlive_their_daemon(vm_lab: LibvirtLab, guests: list[Guest]) -> None:
    """A libvirtd that was killed and started again finds its guests running."""
    before = guests[0].run("cat", "/proc/sys/kernel/random/boot_id").stdout
    vm_lab.stop_daemon()
    vm_lab.start_daemon()
    guests[0].agent.wait(time.monotonic() + READY_S)
    assert guests[0].run("cat", "/proc/sys/kernel/random/boot_id").stdout == before


def test_nothing_is_left_of_a_killed_lab(vm_lab: LibvirtLab) -> None:
    """The next lab ends the guests of one whose process was killed, and deletes its namespace and directory."""
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    name = killed.stdout.strip()
    assert list(members(BASE / name))
    with LibvirtLab() as other:
        assert not list(members(BASE / name))
        assert not (BASE / name).exists()
        assert not (NAMESPACES / name).exists()
        assert other.connection.listAllDomains() == []
    assert list(members(vm_lab.directory))
