"""A stack of the VM lab, deployed by the same commands that a user types."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dm.client import ManagerError
from dm.v1.stack_pb2 import Status
from idm.manager import Access, status
from idm.manifest import load
from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest

# A first boot from a cloud image is a slow one where instructions are emulated.
IDM_S = 540
SERVE = """
import socket
server = socket.create_server(("", 7001))
while True:
    connection, _ = server.accept()
    connection.sendall(connection.recv(64))
    connection.close()
"""
CALL = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 7001), 5) as connection:
            connection.sendall(b"x")
            connection.recv(64)
    except OSError:
        pass
    time.sleep(0.2)  # five calls a second are the guest's whole work
"""


class Idm:
    """The command ``idm`` on the lab's hypervisor, for one stack."""

    def __init__(self, lab: LibvirtLab, manifest: Path, *, stack: str) -> None:
        self._lab, self._manifest, self._stack = lab, manifest, stack
        self._target = f"unix:{lab.directory}/idm/{stack}/dm.sock"

    def __call__(self, *arguments: str) -> str:
        """Run it; it has to succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run it, however it ends."""
        command = [sys.executable, "-m", "idm", "--file", str(self._manifest)]
        command += ["--config", str(self._lab.settings), *arguments]
        return subprocess.run(
            self._lab.namespace.enter(*command), capture_output=True, text=True, timeout=IDM_S, check=False
        )

    def status(self) -> Status:
        """The stack as it is judged now; empty when the manager is too busy to say."""
        try:
            return asyncio.run(status(Access(self._target), self._stack))
        except ManagerError:
            return Status()

    def events(self, kind: str, *, vcd: str = "") -> list[dict[str, Any]]:
        """What the manager told of that kind so far, of one VCD or of all."""
        command = [sys.executable, "-m", "dm", "events", "--past", "1000", "--json", "--dm", self._target]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        told = [json.loads(line) for line in said.splitlines()]
        return [event for event in told if event["kind"] == kind and vcd in ("", event.get("vcd", ""))]


class Deployed(NamedTuple):
    """A stack that is up, and its guests by their VCDs."""

    idm: Idm
    guests: dict[str, Guest]


@contextmanager
def deployed(lab: LibvirtLab, manifest: Path, *, caller: str, server: str) -> Iterator[Deployed]:
    """A manifest's guests, which ran before and one of which calls another; at the end all is as it was then."""
    stack = load(manifest)
    made = lab.guests({vcd.domain: vcd.address for vcd in stack.vcd.values()}, product=True)
    guests = dict(zip(stack.vcd, made, strict=True))
    let_call(guests[caller], guests[server])
    before = [traces(lab, guest) for guest in made]
    idm = Idm(lab, manifest, stack=stack.stack.name)
    assert f"{len(made)} VCDs are started, {len(made)} agents watch them" in idm("up")
    yield Deployed(idm, guests)
    assert idm("down") == f"{stack.stack.name} is down\n"
    assert [traces(lab, guest) for guest in made] == before
    assert not (lab.directory / "idm" / stack.stack.name).exists()
    for guest in made:
        guest.end()


def let_call(caller: Guest, server: Guest) -> None:
    """From now on one guest calls the other, five times a second."""
    for guest, program in ((server, SERVE), (caller, CALL)):
        guest.agent.write("/run/program.py", program.encode())
        guest.run("systemd-run", "--unit=program", "python3", "/run/program.py", server.address)


def traces(lab: LibvirtLab, guest: Guest) -> tuple[str, int, bool]:
    """What a stack might leave of itself: files and units in the guest, snapshots, and a label on the domain."""
    script = "find /etc/stackmend /etc/systemd /run/systemd/system | sort; "
    script += "systemctl list-unit-files 'stackmend*' --no-legend"
    domain = lab.connection.lookupByName(guest.name)
    left = guest.run("sh", "-c", script, check=False).stdout
    return left, domain.snapshotNum(), "stackmend" in domain.XMLDesc()


def eventually(fact: Callable[[], bool], *, within_s: float = 20, step_s: float = 0.1) -> None:
    """Wait for a fact, and insist on it."""
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline
        # Whoever asks all the time keeps guests from getting there.
        time.sleep(step_s)
