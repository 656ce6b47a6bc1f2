"""The domains of one stack, by its VCDs, and the snapshots that each has."""

from contextlib import suppress

from idm.driver import DriverError
from idm.drivers.domain import Label
from idm.drivers.libvirt_connection import Hypervisor, MissingError
from idm.drivers.libvirt_domain import Domain
from idm.drivers.vm_plan import Plan
from idm.drivers.vm_snapshots import Inside, Layers, Note
from idm.manifest import Manifest, SnapshotKind, Vcd


class Domains:
    """Only those that carry the stack's label in their metadata belong to it."""

    def __init__(self, manifest: Manifest, hypervisor: Hypervisor, plan: Plan) -> None:
        self.vcds = tuple(manifest.vcd)
        self.kind = manifest.rollback.snapshot
        self._manifest, self._hypervisor, self._plan = manifest, hypervisor, plan
        self._stack = manifest.stack.name
        # By the names of adopted domains, which may lose theirs.
        self._labels: dict[str, Label] = {}

    def labelled(self) -> list[tuple[Domain, Label]]:
        """All domains with this stack's label, and adopted ones that have lost it and get it again."""
        found = []
        for name in self._hypervisor.domains():
            domain = Domain(self._hypervisor, name)
            # Somebody else's domain may go away meanwhile.
            with suppress(MissingError):
                label = domain.label() or self._labels.get(name)
                if label is not None and label.stack == self._stack:
                    found.append((domain, label))
                    if not label.spec:
                        self._labels[name] = label
        return found

    def let_go(self, domain: Domain) -> None:
        """Take the label off for good."""
        self._labels.pop(domain.name, None)
        domain.set_label(None)

    def owned(self, vcd: str) -> Domain | None:
        """The domain of a VCD, if there is one with its label."""
        domain = Domain(self._hypervisor, self._plan.domain(vcd))
        with suppress(MissingError):
            label = domain.label()
            if label is not None and (label.stack, label.vcd) == (self._stack, vcd):
                return domain
        return None

    def of(self, vcd: str) -> Domain:
        """The same; raises :class:`DriverError` without one."""
        domain = self.owned(vcd)
        if domain is None:
            advice = "adopts it once it is there again" if self._manifest.vcd[vcd].domain else "makes it"
            raise DriverError(f'{vcd} has no domain "{self._plan.domain(vcd)}" of its own: idm up {advice}')
        return domain

    def claim_again(self, vcd: str) -> None:
        """Label an adopted domain that somebody has taken back to before it was adopted, or made anew."""
        name = self._manifest.vcd[vcd].domain
        # Libvirt may be at work on it for longer than it lets others wait; then a later event will do.
        with suppress(DriverError):
            if name and (domain := Domain(self._hypervisor, name)).label() is None:
                domain.set_label(Label(self._stack, vcd, ran=True))

    def layers(self, vcd: str) -> Layers:
        """The frozen disks of a VCD."""
        return Layers(self._plan.disk(vcd))

    def keeper(self, vcd: str, domain: Domain) -> Inside | Layers:
        """What keeps the stack's kind of snapshot."""
        return self.layers(vcd) if self.kind is SnapshotKind.OVERLAY else Inside(domain)

    def notes(self, vcd: str) -> list[Note]:
        """The notes of all snapshots that a VCD has of this stack."""
        domain = self.owned(vcd)
        inside = Inside(domain).notes() if domain is not None else []
        return [note for note in (*inside, *self.layers(vcd).notes()) if note.stack == self._stack]

    def note(self, vcd: str, *, tag: str, golden: str, created: float) -> Note:
        """What is to be kept with a new snapshot."""
        return Note(stack=self._stack, vcd=vcd, tag=tag, golden=golden, kind=self.kind, created=created)

    def check_adoptable(self, vcd: Vcd) -> None:
        """Raise :class:`DriverError` unless the existing domain is nobody else's and can be saved."""
        domain = Domain(self._hypervisor, vcd.domain)
        try:
            label = domain.label()
        except MissingError as e:
            raise DriverError(f'{vcd.name}: there is no domain "{vcd.domain}": see virsh list --all') from e
        if label is not None and label[:2] != (self._stack, vcd.name):
            raise DriverError(
                f'{vcd.name}: domain "{vcd.domain}" is {label.vcd} of stack {label.stack}: idm down that one first'
            )
        if not domain.persistent():
            raise DriverError(f'{vcd.name}: domain "{vcd.domain}" is not defined for good: virsh define it')
        self.check_savable(vcd.name, domain)

    def check_savable(self, vcd: str, domain: Domain) -> None:
        """Raise :class:`DriverError` when this domain cannot be saved as the stack wants it."""
        if self.kind is not SnapshotKind.OVERLAY:
            Inside(domain).check_possible(vcd, self._hypervisor.version())
        elif self._manifest.vcd[vcd].domain:
            raise DriverError(
                f'{vcd} is an existing domain, whose disks are left as they are: set rollback.snapshot = "memory"'
            )
