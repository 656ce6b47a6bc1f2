"""The seam between the deployer and what runs the machines. A VCD is one VM or one container of a stack."""

import enum
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from idm.manifest import Vcd


class Power(enum.Enum):
    """What an instance does right now, as its hypervisor sees it."""

    ABSENT = "absent"
    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


class Instance(NamedTuple):
    """One VCD as it runs now. ``incarnation`` differs after every start, so that a restart between polls is seen.

    One that is ``reverted`` was taken back by somebody else, past this deployer. ``held`` is what somebody else has in
    hand with it, as it follows its name, so that nothing may be rolled back for it; empty when nobody has anything.
    """

    vcd: str
    power: Power
    incarnation: str
    netns: Path | None
    cgroup: Path | None
    reverted: bool = False
    held: str = ""


class Snapshot(NamedTuple):
    """A state that one VCD can be taken back to. ``tag`` is shared by the snapshots taken together over the stack.

    ``size`` is in bytes and counts what it shares with other snapshots.
    """

    vcd: str
    tag: str
    created: datetime
    size: int
    golden: str


class Completed(NamedTuple):
    """The end of a command run inside a VCD."""

    status: int
    output: str


class DriverError(Exception):
    """The hypervisor refused or failed; the message says what and what to try."""


class Driver(Protocol):
    """All that the deployer needs of a hypervisor or container engine. Blocking; names are VCD names of one stack.

    A driver touches only what carries its stack's label. Every call has a deadline of its own and raises
    :class:`DriverError` when it passes.
    """

    def check(self) -> None:
        """Raise :class:`DriverError` unless the engine answers and can do what a stack needs."""

    def prepare(self) -> None:
        """Create what the stack shares (its network); harmless when it is there already."""

    def define(self, vcd: Vcd) -> None:
        """Create the instance from its base image, not started. An instance of that name is an error."""

    def start(self, vcd: str) -> None:
        """Start, or resume when paused."""

    def stop(self, vcd: str, *, grace_s: float = 10.0) -> None:
        """Ask to stop; force after the grace."""

    def destroy(self, vcd: str) -> None:
        """Force off and remove, with what belongs to this instance alone; harmless when absent."""

    def instances(self) -> dict[str, Instance]:
        """All instances of this stack, by VCD."""

    def events(self) -> Iterator[str]:
        """Yield a VCD whenever its power may have changed, and at first all of them, since any may have changed before.

        A restart of the engine is bridged. Ends at close, and with :class:`DriverError` when the engine stays away.
        """

    def snapshot(self, vcds: Sequence[str], *, tag: str, golden: str) -> list[Snapshot]:
        """Take one coordinated snapshot: pause all, save all, resume all, also when one fails (then none is kept).

        All must be running, and none may have a snapshot of that tag.
        """

    def restore(self, vcd: str, *, tag: str) -> None:
        """Take the VCD back to the snapshot and let it run. The snapshot is checked before the instance is touched."""

    def snapshots(self) -> list[Snapshot]:
        """All snapshots of this stack, oldest first."""

    def delete_snapshot(self, vcd: str, *, tag: str) -> None:
        """Remove one snapshot; harmless when absent. An instance that runs on it is not disturbed."""

    def evidence(self, vcd: str, directory: Path) -> list[Path]:
        """Write what helps to understand the VCD's present state (inspection, log tail) into files; returns them."""

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a command inside the VCD and wait for its end."""

    def remove(self) -> None:
        """Remove the stack altogether: instances, snapshots, network. Leaves nothing that carries the stack's label."""

    def close(self) -> None:
        """Let go of the engine's connection; ends ``events``."""
