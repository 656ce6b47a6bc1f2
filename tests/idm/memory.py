"""A tiny driver whose instances live in memory; it keeps what the seam promises and counts what is done to it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from idm.driver import Completed, DriverError, Instance, Power, Snapshot
from idm.manifest import Vcd


class MemoryDriver:
    """Implements :class:`idm.driver.Driver`. A VCD named in ``broken`` refuses every restore."""

    def __init__(self, *, broken: Sequence[str] = ()) -> None:
        self.present: dict[str, Instance] = {}
        self.kept: list[Snapshot] = []
        self.restored: list[tuple[str, str]] = []
        self.broken = tuple(broken)
        # Cleared, restores block until it is set.
        self.may_restore = Event()
        self.may_restore.set()
        self._starts = 0
        self._closed = Event()

    def check(self) -> None:
        """Always fine."""

    def prepare(self) -> None:
        """Nothing is shared."""

    def define(self, vcd: Vcd) -> None:
        if vcd.name in self.present:
            raise DriverError(f"{vcd.name} is there already")
        self.present[vcd.name] = Instance(vcd.name, Power.STOPPED, "", None, None)

    def start(self, vcd: str) -> None:
        self._starts += 1
        self.present[vcd] = Instance(vcd, Power.RUNNING, str(self._starts), None, None)

    def stop(self, vcd: str, *, grace_s: float = 10.0) -> None:
        del grace_s
        self.present[vcd] = self.present[vcd]._replace(power=Power.STOPPED)

    def destroy(self, vcd: str) -> None:
        self.present.pop(vcd, None)

    def instances(self) -> dict[str, Instance]:
        return dict(self.present)

    def events(self) -> Iterator[str]:
        self._closed.wait()
        return iter(())

    def snapshot(self, vcds: Sequence[str], *, tag: str, golden: str) -> list[Snapshot]:
        taken = [Snapshot(vcd, tag, datetime.now(UTC), 0, golden) for vcd in vcds]
        self.kept += taken
        return taken

    def restore(self, vcd: str, *, tag: str) -> None:
        if not any((snapshot.vcd, snapshot.tag) == (vcd, tag) for snapshot in self.kept):
            raise DriverError(f"no snapshot {tag} of {vcd}: run `idm capture`")
        if not self.may_restore.wait(10) or vcd in self.broken:
            raise DriverError(f"{vcd} cannot be restored: try again")
        self.restored.append((vcd, tag))
        self.start(vcd)

    def snapshots(self) -> list[Snapshot]:
        return list(self.kept)

    def delete_snapshot(self, vcd: str, *, tag: str) -> None:
        self.kept = [snapshot for snapshot in self.kept if (snapshot.vcd, snapshot.tag) != (vcd, tag)]

    def evidence(self, vcd: str, directory: Path) -> list[Path]:
        if vcd in self.broken:
            raise DriverError(f"{vcd} cannot be inspected: is it there?")
        file = directory / "state.txt"
        file.write_text(self.present[vcd].power.value)
        return [file]

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float) -> Completed:
        del vcd, timeout_s
        return Completed(0, " ".join(command))

    def remove(self) -> None:
        self.present.clear()
        self.kept.clear()

    def close(self) -> None:
        self._closed.set()
