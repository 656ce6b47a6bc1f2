"""What QEMU's guest agent does for a VM: runs commands, and sets the clock."""

import base64
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from idm.driver import Completed, DriverError
from idm.drivers.libvirt_connection import RefusedError
from idm.drivers.libvirt_domain import Domain

CALL_S = 5.0
FIRST_LOOK_S, LAST_LOOK_S = 0.02, 0.5
OUTPUT_BYTES = 256 * 1024
# What a shell says of a command that is not there.
NOT_FOUND = 127
# A clock that is so near is right; the agent's own errors after setting it are no matter then.
NEAR_S = 1.0

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

    def run(self, command: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a command to its end; one that passes its time is killed. Raises :class:`DriverError`."""
        deadline = time.monotonic() + timeout_s
        request = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
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

    def set_clock(self) -> None:
        """Give the guest this host's time. Raises :class:`RefusedError`, also while the agent is not there yet."""
        try:
            self._ask("guest-set-time", {"time": time.time_ns()}, dict[str, object])
        except RefusedError:
            if not self._near():
                raise

    def _near(self) -> bool:
        try:
            guest = self._ask("guest-get-time", {}, int)
        except RefusedError:
            return False
        return abs(guest / 1e9 - time.time()) < NEAR_S

    def _ask(self, command: str, arguments: dict[str, object], form: type[T]) -> T:
        request = msgspec.json.encode({"execute": command, "arguments": arguments})
        answer = self._domain.ask_agent(request.decode(), timeout_s=CALL_S)
        try:
            return msgspec.convert(msgspec.json.decode(answer)["return"], form)
        except (msgspec.MsgspecError, KeyError) as e:
            raise DriverError(
                f"the guest agent of {self._vcd} does not answer {command} rightly, {e}: update it"
            ) from e
