"""VMs that are saved at one moment, and go back to it together."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec

from idm.driver import DriverError, Power, Snapshot
from idm.drivers.libvirt_connection import AwayError, explained
from idm.drivers.libvirt_domain import Domain
from idm.drivers.together import Rendezvous, together
from idm.drivers.vm_domains import Domains
from idm.drivers.vm_snapshots import Inside, Note, refuse_mixture
from idm.manifest import SnapshotKind

# The daemon may restart, as at an upgrade, without the stack noticing.
RECONNECT_S, RECONNECT_AGAIN_S = 30.0, 0.5
# Those that go back together wait so long for each other.
GROUP_S = 30.0
SHUTDOWN_S = 60.0

T = TypeVar("T")


class Group:
    """The snapshots of one stack; nothing is tried again when ``closing`` is set."""

    def __init__(self, domains: Domains, closing: threading.Event) -> None:
        self._domains, self._closing = domains, closing
        self._restores = Rendezvous()

    def save(self, vcds: Sequence[str], *, tag: str, golden: str) -> list[Snapshot]:
        """Save all domains while all of them are held, or shut off, as the manifest's kind of snapshot wants it."""
        domains = {vcd: self._domains.of(vcd) for vcd in vcds}
        self._check_before_saving(domains, tag)
        created = datetime.now(UTC).timestamp()

        def save(vcd: str) -> None:
            note = self._domains.note(vcd, tag=tag, golden=golden, created=created)
            with explained(f"{vcd} cannot be saved", "look at the disk space, and virsh snapshot-list"):
                self._save(domains[vcd], note)

        with self._still(list(domains.values())):
            try:
                together(save, domains)
            except DriverError:
                for vcd in domains:
                    # The first failure is the one to tell.
                    with suppress(DriverError):
                        self._patiently(partial(self.delete, vcd, tag=tag))
                raise
        return [snapshot for snapshot in self.all() if snapshot.tag == tag]

    def take_back(self, vcd: str, *, tag: str) -> Domain:
        """Take the VM back and let it run, together with the others that go back to the same tag right now."""
        domain = self._patiently(lambda: self._check_before_restoring(vcd, tag))
        with (
            self._restores.under_way(tag),
            explained(f'{vcd} is off and could not be taken back to snapshot "{tag}"', "roll it back again"),
        ):
            self._patiently(lambda: self._end_and_revert(domain, vcd, tag))
        # None may talk to another one's life before.
        self._restores.wait(tag, timeout_s=GROUP_S)
        with explained(f"{vcd} is taken back, but does not run", "see virsh list --all"):
            # A disk alone begins a life of its own.
            overlay = self._domains.kind is SnapshotKind.OVERLAY
            self._patiently(domain.let_run if overlay else domain.go_on)
        return domain

    def all(self) -> list[Snapshot]:
        """All snapshots of this stack, oldest first."""
        found = [note.snapshot() for vcd in self._domains.vcds for note in self._domains.notes(vcd)]
        return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.vcd))

    def delete(self, vcd: str, *, tag: str) -> None:
        """Remove one snapshot; harmless when absent. A layer that is stood on stays until nothing does."""
        with explained(f'snapshot "{tag}" of {vcd} cannot be deleted', "see virsh snapshot-list"):
            self._domains.layers(vcd).delete(tag)
            if (domain := self._domains.owned(vcd)) is not None:
                Inside(domain).delete(tag)

    def _check_before_saving(self, domains: dict[str, Domain], tag: str) -> None:
        for vcd, domain in domains.items():
            if (power := domain.power()) is not Power.RUNNING:
                raise DriverError(
                    f"{vcd} is {power.value}, and a snapshot takes running VCDs: start it first"
                )
            notes = self._domains.notes(vcd)
            if tag in {note.tag for note in notes}:
                raise DriverError(f'{vcd} has a snapshot "{tag}" already: choose another tag')
            refuse_mixture(notes, self._domains.kind)
            self._domains.check_savable(vcd, domain)

    def _save(self, domain: Domain, note: Note) -> None:
        keeper = self._domains.keeper(note.vcd, domain)
        keeper.save(note)
        keeper.amend(msgspec.structs.replace(note, size=keeper.size(note.tag)))

    @contextmanager
    def _still(self, domains: list[Domain]) -> Iterator[None]:
        """Hold all domains, or shut them off; let them run at the end, also when not all could be held."""
        memory = self._domains.kind is SnapshotKind.MEMORY
        try:
            with explained("the stack cannot be held for a snapshot", "see virsh list"):
                together(Domain.suspend if memory else self._shut_down, domains)
            yield
        finally:
            together(lambda domain: self._patiently(domain.let_run), domains)

    def _shut_down(self, domain: Domain) -> None:
        if not domain.shut_down(within_s=SHUTDOWN_S, wait=self._closing.wait):
            raise DriverError(
                f"{domain.name} does not shut down within {SHUTDOWN_S:.0f} s: let its guest heed the power button"
            )

    def _check_before_restoring(self, vcd: str, tag: str) -> Domain:
        domain = self._domains.of(vcd)
        note = next((note for note in self._domains.notes(vcd) if note.tag == tag), None)
        if note is None:
            raise DriverError(f'{vcd} has no snapshot "{tag}": choose one that idm snapshots lists')
        refuse_mixture([note], self._domains.kind)
        if not domain.persistent():
            raise DriverError(
                f'domain "{domain.name}" of {vcd} is no longer defined: virsh define it, or idm down and idm up'
            )
        self._domains.keeper(vcd, domain).check_present(vcd, tag)
        return domain

    def _end_and_revert(self, domain: Domain, vcd: str, tag: str) -> None:
        """Begun anew from any point where it broke off, it ends the same."""
        # Reverting a domain that runs takes longer than ending it first.
        domain.destroy()
        self._domains.keeper(vcd, domain).go_back(tag)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do it again from its beginning when the daemon went away and came back."""
        deadline = time.monotonic() + RECONNECT_S
        while True:
            try:
                return action()
            except AwayError:
                if time.monotonic() > deadline or self._closing.is_set():
                    raise
            self._closing.wait(RECONNECT_AGAIN_S)
