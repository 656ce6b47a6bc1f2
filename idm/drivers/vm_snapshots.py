"""How a VM is saved and taken back: inside its disk images with or without its memory, or as layers of disks."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from idm.driver import DriverError, Snapshot
from idm.drivers import qcow2
from idm.drivers.domain import build_found_snapshot, build_snapshot, redescribe_snapshot
from idm.drivers.libvirt_connection import MissingError, RefusedError
from idm.drivers.libvirt_domain import Domain
from idm.manifest import SnapshotKind

PREFIX = "stackmend-"
# The first release that saves UEFI's variables inside their image, too.
FLASH = (10, 10, 0)


class Note(msgspec.Struct, frozen=True, kw_only=True, tag_field="by", tag="stackmend"):
    """What is kept with a snapshot, as its description. ``created`` is in Unix seconds, ``size`` in bytes."""

    stack: str
    vcd: str
    tag: str
    golden: str
    kind: SnapshotKind
    created: float
    size: int = 0

    def snapshot(self) -> Snapshot:
        """In the driver's words."""
        created = datetime.fromtimestamp(self.created, UTC)
        return Snapshot(self.vcd, self.tag, created, self.size, self.golden)


class Inside:
    """Snapshots that QEMU keeps inside the disks of one domain."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def notes(self) -> list[Note]:
        """The notes of all that are there."""
        return [note for saved in self._domain.snapshots() if (note := _note(saved.description))]

    def check_possible(self, vcd: str, version: tuple[int, int, int]) -> None:
        """Raise :class:`DriverError` when this domain cannot be saved so."""
        facts = self._domain.facts()
        if facts.flash and version < FLASH:
            here, first = (".".join(map(str, number)) for number in (version, FLASH))
            raise DriverError(
                f"{vcd} boots by UEFI, which libvirt {here} cannot save: update to {first} or boot it by BIOS"
            )
        for disk in facts.disks:
            if disk.format != "qcow2":
                raise DriverError(
                    f"{vcd} has a {disk.format} disk {disk.path}, which cannot be saved: qemu-img convert -O qcow2 it"
                )
        self._refuse_external(vcd)

    def check_present(self, vcd: str, tag: str) -> None:
        """Raise :class:`DriverError` unless the snapshot is there, in every image, and nothing else uses these."""
        self._refuse_external(vcd)
        running = self._domain.active()
        for disk in self._domain.facts().disks:
            image = qcow2.chain(disk.path, shared=running)[0]
            if PREFIX + tag not in {snapshot.name for snapshot in image.snapshots}:
                raise DriverError(f'{disk.path} of {vcd} has lost snapshot "{tag}": choose another one')

    def save(self, note: Note) -> None:
        """Save the domain as it is."""
        self._domain.save(build_snapshot(PREFIX + note.tag, _text(note)))

    def amend(self, note: Note) -> None:
        """Change the note; who goes back by hand gets a VM that runs, though it was saved while it was held."""
        name = PREFIX + note.tag
        state = "running" if note.kind is SnapshotKind.MEMORY else "shutoff"
        xml = redescribe_snapshot(self._domain.snapshot_xml(name), _text(note), state=state)
        self._domain.redefine_snapshot(xml)

    def size(self, tag: str) -> int:
        """The bytes that it takes in the images, with what it shares with others but without their memories."""
        size = 0
        for disk in self._domain.facts().disks:
            image = qcow2.chain(disk.path, shared=True)[0]
            others = sum(kept.vm_state_size for kept in image.snapshots if kept.name != PREFIX + tag)
            size += max(0, image.actual_size - others)
        return size

    def go_back(self, tag: str) -> None:
        """Take a domain that is off back, up to where its processors would begin."""
        self._domain.revert(PREFIX + tag)

    def delete(self, tag: str) -> None:
        """Delete one; harmless when absent."""
        name = PREFIX + tag
        with suppress(MissingError):
            try:
                self._domain.delete_snapshot(name)
            except MissingError:
                raise
            except RefusedError:
                # When the image has lost it, what libvirt knows of it must go.
                if self._in_images(name):
                    raise
                self._domain.delete_snapshot(name, in_image=False)
        if self._in_images(name):
            # The daemon had died before it wrote down what QEMU saved; only one that it knows can it delete.
            self._domain.redefine_snapshot(build_found_snapshot(name, self._domain.xml()))
            self._domain.delete_snapshot(name)

    def _in_images(self, name: str) -> bool:
        images = (qcow2.chain(disk.path, shared=True)[0] for disk in self._domain.facts().disks)
        return any(name == snapshot.name for image in images for snapshot in image.snapshots)

    def _refuse_external(self, vcd: str) -> None:
        external = [saved.name for saved in self._domain.snapshots() if saved.external]
        if external:
            raise DriverError(
                f'{vcd} has external snapshots ("{external[0]}"), and mixing them with internal ones loses data: '
                f"virsh snapshot-delete {self._domain.name} {external[0]} merges one"
            )


class Layers:
    """Disks of one VM that are frozen, each below the next; ``disk`` is the layer that is written to.

    A layer ``VCD.TAG.layer`` has its note beside it; without a note it only stays for what stands on it.
    """

    def __init__(self, disk: Path) -> None:
        self._disk = disk

    def notes(self) -> list[Note]:
        """The notes of all that are there."""
        paths = self._disk.parent.glob(f"{self._disk.stem}.*.note")
        return [note for path in paths if (note := _note(path.read_text()))]

    def check_present(self, vcd: str, tag: str) -> None:
        """Raise :class:`DriverError` unless the layer can be read, and its VM's disk is nobody else's."""
        if not self._layer(tag).exists():
            raise DriverError(f'{self._layer(tag)}, snapshot "{tag}" of {vcd}, is lost: choose another one')
        qcow2.chain(self._layer(tag), shared=True)

    def save(self, note: Note) -> None:
        """Freeze the disk of a VM that is off, and put a fresh one on it."""
        layer = self._layer(note.tag)
        try:
            self._disk.rename(layer)
            try:
                qcow2.create(self._disk, base=layer)
            except DriverError:
                layer.rename(self._disk)
                raise
            self.amend(note)
        except OSError as e:
            raise DriverError(
                f"{note.vcd} cannot be saved, {e.strerror}, {e.filename}: look at that file system"
            ) from e

    def amend(self, note: Note) -> None:
        """Change the note."""
        self._note(note.tag).write_text(_text(note))

    def size(self, tag: str) -> int:
        """The bytes that the layer takes, without what it stands on."""
        return qcow2.chain(self._layer(tag), shared=True)[0].actual_size

    def go_back(self, tag: str) -> None:
        """Discard what a VM that is off has written since."""
        try:
            qcow2.create(self._disk, base=self._layer(tag))
        except DriverError as e:
            # The VM is off by now, which whoever explains a refusal says, too.
            raise RefusedError(str(e)) from e

    def delete(self, tag: str) -> None:
        """Delete one; harmless when absent. A layer that something stands on goes with a later deletion."""
        self._note(tag).unlink(missing_ok=True)
        layers = set(self._disk.parent.glob(f"{self._disk.stem}.*.layer"))
        noted = {layer for layer in layers if layer.with_suffix(".note").exists()}
        used = {self._disk} | noted
        standing = {
            Path(image.filename) for path in used if path.exists() for image in qcow2.chain(path, shared=True)
        }
        for layer in layers - standing:
            layer.unlink()

    def _layer(self, tag: str) -> Path:
        return self._disk.with_name(f"{self._disk.stem}.{tag}.layer")

    def _note(self, tag: str) -> Path:
        return self._disk.with_name(f"{self._disk.stem}.{tag}.note")


def refuse_mixture(notes: Iterable[Note], kind: SnapshotKind) -> None:
    """Raise :class:`DriverError` when there are snapshots of another kind."""
    for note in notes:
        if note.kind is not kind:
            raise DriverError(
                f'{note.vcd} has snapshot "{note.tag}" of kind {note.kind.value}, and kinds are not mixed: '
                f'set rollback.snapshot = "{note.kind.value}", or delete the earlier ones'
            )


def _note(text: str) -> Note | None:
    """A note that is ours; other people's descriptions are left alone."""
    try:
        return msgspec.json.decode(text, type=Note)
    except msgspec.MsgspecError:
        return None


def _text(note: Note) -> str:
    return msgspec.json.encode(note).decode()
