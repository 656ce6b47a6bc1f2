"""What QEMU's guest agent does for a VM: runs commands, and sets the clock."""

import base64
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from idm.driver import Completed, DriverError
from idm.drivers.libvirt_connection import RefusedError
from idm.drivers.libvirt_domain import Domain

CALL_S = 5.0
FIRST_LOOK_S, LAST_LOOK_S = 0.02, 0.5
OUTPUT_BYTES = 256 * 1024
# Messages of several hundred KiB arrive mutilated.
CHUNK_BYTES = 48 * 1024
# What a shell says of a command that is not there.
NOT_FOUND = 127
CLOCK_TRIES = 4
NEAR_S = 0.25

T = TypeVar("T")


class _Started(msgspec.Struct, frozen=True):
    pid: int


class _Status(msgspec.Struct, frozen=True, rename="kebab"):
    exited: bool
    exitcode: int = 0
    signal: int = 0
    out_data: str = ""
    err_data: str = ""


class GuestAgent:
    """The agent of one VM. ``wait`` sleeps, but not past the driver's end."""

    def __init__(self, vcd: str, domain: Domain, wait: Callable[[float], object]) -> None:
        self._vcd = vcd
        self._domain = domain
        self._wait = wait

    def run(self, command: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Run a command to its end; one that passes its time is killed. Raises :class:`DriverError`."""
        deadline = time.monotonic() + timeout_s
        request: dict[str, object] = {
            "path": command[0],
            "arg": list(command[1:]),
            "capture-output": True,
            "input-data": base64.b64encode(stdin).decode(),
        }
        try:
            pid = self._ask("guest-exec", request, _Started).pid
        except RefusedError as e:
            if "Failed to execute" not in str(e) and "failed to execute" not in str(e):
                raise
            return Completed(NOT_FOUND, f"{e}\n")
        look_s = FIRST_LOOK_S
        while not (status := self._ask("guest-exec-status", {"pid": pid}, _Status)).exited:
            if time.monotonic() > deadline:
                self._ask("guest-exec", {"path": "kill", "arg": ["-KILL", str(pid)]}, _Started)
                raise DriverError(
                    f"{command[0]} did not end within {timeout_s:g} s in {self._vcd}: "
                    "allow more, or see why it hangs"
                )
            self._wait(look_s)
            look_s = min(2 * look_s, LAST_LOOK_S)
        output = base64.b64decode(status.out_data) + base64.b64decode(status.err_data)
        end = 128 + status.signal if status.signal else status.exitcode
        return Completed(end, output[-OUTPUT_BYTES:].decode(errors="replace"))

    def write(self, path: str, content: bytes) -> None:
        """Write a file, which everybody in the guest may read and write. Raises :class:`RefusedError`."""
        handle = self._ask("guest-file-open", {"path": path, "mode": "w"}, int)
        try:
            for begin in range(0, len(content), CHUNK_BYTES):
                chunk = base64.b64encode(content[begin : begin + CHUNK_BYTES]).decode()
                self._ask("guest-file-write", {"handle": handle, "buf-b64": chunk}, dict[str, object])
        finally:
            self._ask("guest-file-close", {"handle": handle}, dict[str, object])

    def set_clock(self) -> None:
        """Give the guest this host's time. Raises :class:`RefusedError`, also while the agent is not there yet."""
        ahead_s = 0.0
        for _ in range(CLOCK_TRIES):
            # The agent also sets the hardware's clock, which not every guest has; how it ends is seen by the result.
            with suppress(RefusedError):
                self._ask("guest-set-time", {"time": round((time.time() + ahead_s) * 1e9)}, dict[str, object])
            if abs(offset_s := self._clock_offset_s()) < NEAR_S:
                return
            # The command takes its time to get there.
            ahead_s -= offset_s
        raise RefusedError(f"the guest's clock is {offset_s:+.1f} s off and cannot be set")

    def _clock_offset_s(self) -> float:
        began = time.time()
        guest_s = self._ask("guest-get-time", {}, int) / 1e9
        return guest_s - (began + time.time()) / 2

    def _ask(self, command: str, arguments: dict[str, object], form: type[T]) -> T:
        request = msgspec.json.encode({"execute": command, "arguments": arguments})
        answer = self._domain.ask_agent(request.decode(), timeout_s=CALL_S)
        try:
            return msgspec.convert(msgspec.json.decode(answer)["return"], form)
        except (msgspec.MsgspecError, KeyError) as e:
            raise DriverError(
                f"the guest agent of {self._vcd} does not answer {command} rightly, {e}: update it"
            ) from e
