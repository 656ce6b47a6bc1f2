"""Payloads on their way into a guest that runs, by a program that is executed in it."""

from collections.abc import Sequence
from typing import Protocol

from idm.delivery import script
from idm.delivery.payload import Payload
from idm.driver import Completed, DriverError
from idm.errors import DeployError

# Where instructions are emulated, and while a guest boots, a shell takes its time.
SCRIPT_S = 120.0
JOURNAL_S, JOURNAL_LINES = 10.0, 3
_WHY = {
    script.Refusal.NO_SYSTEMD: "it is not run by systemd: start the agent there by yourself, from an image",
    script.Refusal.NO_TOOLS: "it has no tar or no cmp: install tar and diffutils there",
}


class DeliveryError(DeployError):
    """This guest cannot be served, now or later; the message is one line that says what to try."""


class ProgramError(DeliveryError):
    """The guest does not have the program that the payload is for."""


class Shell(Protocol):
    """Runs commands as root in the guests, by their VCDs' names; a driver of VMs is one. Blocking."""

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Run a command to its end. Raises ``DriverError``, also while the guest does not answer yet.

        ``stdin`` may have some ten kilobytes: it travels in one message.
        """

    def write(self, vcd: str, path: str, content: bytes) -> None:
        """Write a file of any size, which everybody in the guest may read and write. Raises ``DriverError``."""


class Installer(Protocol):
    """Brings the program itself into a guest that runs and lacks it, such as from a bundle on this host. Blocking."""

    def install(self, shell: Shell, vcd: str, program: str) -> None:
        """Leave the program, by its path, there. Raises :class:`DeliveryError` where it cannot run, ``DriverError``."""


def provide(shell: Shell, vcd: str, payload: Payload, installer: Installer | None) -> None:
    """Deliver a payload, and first its program if the guest lacks that. Raises like :func:`deliver`."""
    try:
        deliver(shell, vcd, payload)
    except ProgramError:
        if installer is None:
            raise
        installer.install(shell, vcd, payload.program)
        deliver(shell, vcd, payload)


def deliver(shell: Shell, vcd: str, payload: Payload) -> None:
    """Put a payload in place and have its unit run; harmless when all of it is there and runs already.

    Raises :class:`DeliveryError`, or ``DriverError`` for what may pass.
    """
    command = ("sh", "-c", script.install(payload))
    end = shell.execute(vcd, command, timeout_s=SCRIPT_S, stdin=script.parcel(payload))
    if end.status == script.Refusal.NO_PROGRAM:
        raise ProgramError(f"{vcd} has no {payload.program}: install it in its image")
    if end.status in _WHY:
        raise DeliveryError(f"{vcd} cannot take an agent, {_WHY[script.Refusal(end.status)]}")
    if end.status:
        raise DriverError(f"{vcd} does not take {payload.unit}: {_last(end)}: see its journal")


def withdraw(shell: Shell, vcd: str, unit: str, paths: Sequence[str]) -> None:
    """Stop the unit and remove what was delivered; harmless when nothing was. Raises ``DriverError``."""
    shell.execute(vcd, ("sh", "-c", script.remove(unit, paths)), timeout_s=SCRIPT_S)


def journal(shell: Shell, vcd: str, unit: str) -> str:
    """The last words of a service, in one line; its own, not those of systemd about it."""
    options = ("--no-pager", "--output=cat", f"--lines={JOURNAL_LINES}")
    command = ("journalctl", *options, f"_SYSTEMD_UNIT={unit}")
    try:
        said = shell.execute(vcd, command, timeout_s=JOURNAL_S).output
    except DriverError as e:
        return str(e)
    return " | ".join(line.strip() for line in said.splitlines() if line.strip()) or "nothing"


def restarts(shell: Shell, vcd: str, unit: str) -> int:
    """How often systemd has started a service again that had ended by itself; 0 when it cannot be asked."""
    command = ("systemctl", "show", "--value", "--property=NRestarts", unit)
    try:
        said = shell.execute(vcd, command, timeout_s=JOURNAL_S).output.strip()
    except DriverError:
        return 0
    return int(said) if said.isdecimal() else 0


def _last(end: Completed) -> str:
    lines = end.output.strip().splitlines()
    return lines[-1] if lines else f"status {end.status}"
