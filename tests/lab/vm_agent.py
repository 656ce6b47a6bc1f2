"""Commands inside a guest, by the QEMU guest agent: no network and no login is needed."""

import base64
import shlex
import subprocess
import time
from typing import NamedTuple

import libvirt
import libvirt_qemu
import msgspec

from tests.lab.namespace import LabError

REPLY_S = 10
# Messages of several hundred KiB arrive mutilated.
CHUNK = 48 << 10
CLOCK_S, CLOCK_ATTEMPTS = 0.25, 10
# Libvirt's answers while the agent is not there (yet), or did not answer in time.
ABSENT = {
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_OPERATION_INVALID,
}


class Status(msgspec.Struct, frozen=True):
    """What guest-exec-status tells; the output is in base64."""

    exited: bool
    exitcode: int = -1
    out: bytes = msgspec.field(name="out-data", default=b"")
    err: bytes = msgspec.field(name="err-data", default=b"")


class Started(msgspec.Struct, frozen=True):
    """What guest-exec tells."""

    pid: int


class GuestAgent(NamedTuple):
    """The agent inside a running domain."""

    domain: libvirt.virDomain

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            libvirt_qemu.qemuAgentCommand(self.domain, '{"execute": "guest-ping"}', 1, 0)
        except libvirt.libvirtError as e:
            if e.get_error_code() in ABSENT:
                return False
            raise
        return True

    def wait(self, deadline: float) -> None:
        """Return when it answers; LabError after the deadline, a time of the monotonic clock."""
        while not self.answers():
            if time.monotonic() > deadline:
                raise LabError(f"{self.domain.name()}: no guest agent answers: read the guest's console log")
            time.sleep(0.05)

    def start(self, command: tuple[str, ...]) -> int:
        """Start a program, without waiting for it; returns a handle for ``status``."""
        program, *arguments = command
        options = {"path": program, "arg": arguments, "capture-output": True}
        return msgspec.json.decode(self._call("guest-exec", options), type=Started).pid

    def status(self, pid: int) -> Status:
        """How a started program fares. That it has ended is told once."""
        return msgspec.json.decode(self._call("guest-exec-status", {"pid": pid}), type=Status)

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end; raises LabError with its own words if it fails and ``check`` is set."""
        pid = self.start(command)
        status = self.wait_for(pid, shlex.join(command), timeout_s=timeout_s)
        if check and status.exitcode:
            raise LabError(f"{shlex.join(command)}: {status.err.decode().strip() or status.exitcode}")
        return subprocess.CompletedProcess(command, status.exitcode, status.out.decode(), status.err.decode())

    def wait_for(self, pid: int, what: str, *, timeout_s: float) -> Status:
        """The status of a started program when it has ended; LabError if it does not in time."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.01
        while not (status := self.status(pid)).exited:
            if time.monotonic() > deadline:
                raise LabError(f"{what}: no end after {timeout_s:.0f} s in {self.domain.name()}")
            time.sleep(pause_s)
            # The agent writes each question to the guest's journal.
            pause_s = min(2 * pause_s, 0.5)
        return status

    def write(self, path: str, content: bytes) -> None:
        """Write a file, or into a pipe."""
        handle = msgspec.json.decode(self._call("guest-file-open", {"path": path, "mode": "w"}), type=int)
        for begin in range(0, len(content), CHUNK):
            encoded = base64.b64encode(content[begin : begin + CHUNK]).decode()
            self._call("guest-file-write", {"handle": handle, "buf-b64": encoded})
        self._call("guest-file-close", {"handle": handle})

    def correct_clock(self) -> None:
        """Give the guest this machine's time if it is off, again if it was told so late that it still is."""
        for _ in range(CLOCK_ATTEMPTS):
            if abs(self.clock_offset_s()) < CLOCK_S:
                return
            self._call("guest-set-time", {"time": time.time_ns()})
        raise LabError(f"{self.domain.name()}: its clock cannot be set: look at the machine's load")

    def clock_offset_s(self) -> float:
        """By how much the guest's clock is ahead; 0 when it showed a time between question and answer."""
        before_ns = time.time_ns()
        clock_ns = msgspec.json.decode(self._call("guest-get-time", {}), type=int)
        return (max(0, clock_ns - time.time_ns()) - max(0, before_ns - clock_ns)) / 1e9

    def _call(self, name: str, arguments: dict[str, object]) -> bytes:
        request = msgspec.json.encode({"execute": name, "arguments": arguments}).decode()
        answer = libvirt_qemu.qemuAgentCommand(self.domain, request, REPLY_S, 0)
        return msgspec.Raw(msgspec.json.decode(answer, type=dict[str, msgspec.Raw])["return"])
