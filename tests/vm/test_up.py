"""`idm up` on guests that run: agents are delivered, the stack is learned, taken back, and left as it was."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest

pytestmark = pytest.mark.vm

GUESTS = {"up-web": "198.18.0.71", "up-db": "198.18.0.72"}
STACK = """
[stack]
name = "up"
driver = "libvirt"

[network]
subnet = "198.18.0.0/24"
bridge = "br0"

[vcd.web]
domain = "up-web"
address = "198.18.0.71"
after = ["db"]

[vcd.db]
domain = "up-db"
address = "198.18.0.72"
"""
IDM_S = 240


@pytest.fixture(scope="module")
def guests(vm_lab: LibvirtLab) -> dict[str, Guest]:
    """Two guests that run already, with the agent's program but nothing of a stack."""
    made = {guest.name: guest for guest in vm_lab.guests(GUESTS)}
    for guest in made.values():
        vm_lab.install(guest)
    return made


class Idm:
    """The command ``idm`` on the lab's hypervisor."""

    def __init__(self, lab: LibvirtLab, manifest: Path) -> None:
        self._lab, self._manifest = lab, manifest

    def __call__(self, *arguments: str, check: bool = True) -> str:
        command = [sys.executable, "-m", "idm", "--file", str(self._manifest)]
        command += ["--config", str(self._lab.settings), *arguments]
        done = subprocess.run(
            self._lab.namespace.enter(*command), capture_output=True, text=True, timeout=IDM_S, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def idm(
    vm_lab: LibvirtLab, guests: dict[str, Guest], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Idm]:
    """For a stack of the two; it is down at the end."""
    assert guests
    manifest = tmp_path_factory.mktemp("up") / "stack.toml"
    manifest.write_text(STACK)
    idm = Idm(vm_lab, manifest)
    yield idm
    idm("down")


def test_running_guests_are_taken_in(idm: Idm, guests: dict[str, Guest]) -> None:
    """Domains that run go on running, and their agents report."""
    booted = {
        name: guest.run("cat", "/proc/sys/kernel/random/boot_id").stdout for name, guest in guests.items()
    }
    said = idm("up")
    assert "2 VCDs are started, 2 agents watch them" in said
    assert {
        name: g.run("cat", "/proc/sys/kernel/random/boot_id").stdout for name, g in guests.items()
    } == booted
