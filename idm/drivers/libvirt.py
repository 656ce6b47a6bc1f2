"""Stacks of VMs: every VCD is a domain of libvirt, a snapshot is kept inside its disks or as a layer below them."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from idm.driver import Completed, DriverError, Instance, Power, Snapshot
from idm.drivers import qcow2
from idm.drivers.domain import Label
from idm.drivers.guest_agent import GuestAgent
from idm.drivers.guest_clock import Clocks
from idm.drivers.libvirt_connection import (
    AwayError,
    Event,
    Hypervisor,
    MissingError,
    RefusedError,
    Turn,
)
from idm.drivers.libvirt_domain import Domain
from idm.drivers.libvirt_host import Host
from idm.drivers.together import Rendezvous, together
from idm.drivers.vm_plan import Plan
from idm.drivers.vm_snapshots import Inside, Layers, Note, refuse_mixture
from idm.errors import DeployError
from idm.manifest import Manifest, SnapshotKind, Vcd
from idm.settings import Libvirt

# The daemon may restart, as at an upgrade, without the stack noticing.
RECONNECT_S, RECONNECT_AGAIN_S = 30.0, 0.5
# Those that go back together wait so long for each other.
GROUP_S = 30.0
SHUTDOWN_S, LOOK_S = 60.0, 0.1
CONSOLE_BYTES = 64 * 1024
BOOT = Path("/proc/sys/kernel/random/boot_id")

T = TypeVar("T")
# Writes a VM's first configuration to a path, unless it needs none; returns whether it did.
Sower = Callable[[Vcd, Path], bool]


class LibvirtDriver:
    """Drives the domains ``<stack>-<vcd>``, and those that the manifest adopts; see :class:`idm.driver.Driver`.

    A domain is ours by the label in its metadata. An adopted one gets it, too, and loses it at the end.
    """

    def __init__(self, manifest: Manifest, settings: Libvirt, *, seed: Sower | None = None) -> None:
        self._manifest = manifest
        self._sow = seed
        self._stack = manifest.stack.name
        self._kind = manifest.rollback.snapshot
        self._plan = Plan(manifest, Path(settings.directory))
        self._hypervisor = Hypervisor(settings.uri)
        self._host = Host(self._hypervisor, settings)
        self._restores = Rendezvous()
        self._restoring: set[str] = set()
        # By VCD the incarnation that somebody else has taken it back to.
        self._reverted: dict[str, str] = {}
        self._closing = threading.Event()
        self._clocks = Clocks(self._closing)
        self._subscription: Callable[[], None] | None = None
        # Identifiers of domains begin anew with the host.
        self._boot = BOOT.read_text()[:8]

    def check(self) -> None:
        """Raise :class:`DriverError` unless libvirt answers, is new enough, and can run VMs."""
        self._host.check()

    def prepare(self) -> None:
        """See that images, or adopted domains, are there and can be saved, and bring the network up."""
        for vcd in self._manifest.vcd.values():
            if vcd.image:
                qcow2.chain(vcd.image, shared=True)
            else:
                self._check_adoptable(vcd)
        self._host.prepare_network(self._plan.network(), name=self._manifest.network.libvirt)

    def define(self, vcd: Vcd) -> None:
        """Create the VM on a layer of its own above the image, not started; or adopt it, as it is."""
        domain = Domain(self._hypervisor, self._plan.domain(vcd.name))
        if vcd.domain:
            domain.set_label(Label(self._stack, vcd.name, ran=domain.active()))
            return
        if domain.exists():
            raise DriverError(
                f'there is a domain "{domain.name}" already: idm down removes what an earlier launch left'
            )
        disk, seed = self._plan.disk(vcd.name), self._plan.seed(vcd.name)
        # QEMU runs as a user of its own, who must be able to open what he knows the name of.
        for directory in (disk.parent.parent, disk.parent):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        qcow2.create(disk, base=Path(vcd.image))
        try:
            if self._sow is not None and self._sow(vcd, seed):
                self._host.hand_over(seed)
            with _explained(f"{vcd.name} cannot be created", "see its machine in the manifest"):
                self._hypervisor.define(self._plan.define(vcd, self._host.platform()))
        except (DeployError, DriverError):
            for path in (disk, seed):
                path.unlink(missing_ok=True)
            raise

    def start(self, vcd: str) -> None:
        """Start, or resume when paused."""
        domain = self._domain(vcd)
        with _explained(f"{vcd} cannot be started", f"see virsh start {domain.name}"):
            match domain.power():
                case Power.PAUSED:
                    domain.resume()
                case Power.CRASHED:
                    # One that has panicked keeps its process for the evidence.
                    domain.destroy()
                    domain.create()
                case Power.STOPPED:
                    domain.create()

    def stop(self, vcd: str, *, grace_s: float = 10.0) -> None:
        """Ask to stop; force after the grace."""
        domain = self._domain(vcd)
        with _explained(f"{vcd} cannot be stopped", f"see virsh destroy {domain.name}"):
            if not self._shut_down(domain, within_s=grace_s):
                domain.destroy()

    def destroy(self, vcd: str) -> None:
        """Kill and remove; harmless when absent. An adopted domain becomes what it was before."""
        domain = Domain(self._hypervisor, self._plan.domain(vcd))
        with suppress(MissingError):
            label = domain.label()
            if label is not None and label.stack == self._stack:
                self._remove(domain, label)
        for path in self._plan.directory.glob(f"{vcd}.*"):
            path.unlink(missing_ok=True)

    def instances(self) -> dict[str, Instance]:
        """All domains of this stack. One that panicked, or whose process was killed, has crashed."""
        found = {}
        for domain, label in self._labelled():
            with suppress(MissingError):
                run = domain.run()
                incarnation = f"{self._boot}.{run}" if run else ""
                reverted = bool(incarnation) and incarnation == self._reverted.get(label.vcd)
                found[label.vcd] = Instance(label.vcd, domain.power(), incarnation, None, None, reverted)
        return found

    def events(self) -> Iterator[str]:
        """Yield every VCD when the subscription is made, anew after libvirt was away, and then whatever changes.

        To be iterated by one thread at a time.
        """
        deadline = time.monotonic() + RECONNECT_S
        while not self._closing.is_set():
            try:
                with self._hypervisor.events() as events:
                    self._subscription = events.end
                    yield from self._manifest.vcd
                    if not self._closing.is_set():
                        for event in events:
                            yield from self._heed(event)
                    deadline = time.monotonic() + RECONNECT_S
            except AwayError:
                if time.monotonic() > deadline:
                    raise
            self._closing.wait(RECONNECT_AGAIN_S)

    def snapshot(self, vcds: Sequence[str], *, tag: str, golden: str) -> list[Snapshot]:
        """Save all domains while all of them are held, or shut off, as the manifest's kind of snapshot wants it."""
        domains = {vcd: self._domain(vcd) for vcd in vcds}
        self._check_before_saving(domains, tag)
        created = datetime.now(UTC).timestamp()

        def save(vcd: str) -> None:
            note = Note(stack=self._stack, vcd=vcd, tag=tag, golden=golden, kind=self._kind, created=created)
            with _explained(f"{vcd} cannot be saved", "look at the disk space, and virsh snapshot-list"):
                self._save(domains[vcd], note)

        with self._still(list(domains.values())):
            try:
                together(save, domains)
            except DriverError:
                for vcd in domains:
                    # The first failure is the one to tell.
                    with suppress(DriverError):
                        self._patiently(partial(self.delete_snapshot, vcd, tag=tag))
                raise
        return [snapshot for snapshot in self.snapshots() if snapshot.tag == tag]

    def restore(self, vcd: str, *, tag: str) -> None:
        """Take the VM back and let it run, together with the others that go back to the same tag right now."""
        domain = self._patiently(lambda: self._check_before_restoring(vcd, tag))
        self._restoring.add(vcd)
        try:
            self._go_back(vcd, domain, tag)
        finally:
            self._restoring.discard(vcd)
        self._set_clock(vcd, domain)

    def _set_clock(self, vcd: str, domain: Domain) -> None:
        """A guest that was saved with its memory goes on at the time of its snapshot."""
        if self._kind is SnapshotKind.MEMORY:
            self._clocks.set(vcd, domain, self._agent(vcd, domain))

    def _go_back(self, vcd: str, domain: Domain, tag: str) -> None:
        with (
            self._restores.under_way(tag),
            _explained(f'{vcd} is off and could not be taken back to snapshot "{tag}"', "roll it back again"),
        ):
            self._patiently(lambda: self._take_back(domain, vcd, tag))
        # None may talk to another one's life before.
        self._restores.wait(tag, timeout_s=GROUP_S)
        with _explained(f"{vcd} is taken back, but does not run", "see virsh list --all"):
            # A disk alone begins a life of its own.
            go_on = _let_run if self._kind is SnapshotKind.OVERLAY else _resume
            self._patiently(lambda: go_on(domain))

    def snapshots(self) -> list[Snapshot]:
        """All snapshots of this stack, oldest first."""
        found = [note.snapshot() for vcd in self._manifest.vcd for note in self._notes(vcd)]
        return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.vcd))

    def delete_snapshot(self, vcd: str, *, tag: str) -> None:
        """Remove one snapshot; harmless when absent. A layer that is stood on stays until nothing does."""
        with _explained(f'snapshot "{tag}" of {vcd} cannot be deleted', "see virsh snapshot-list"):
            self._layers(vcd).delete(tag)
            if (domain := self._owned(vcd)) is not None:
                Inside(domain).delete(tag)

    def evidence(self, vcd: str, directory: Path) -> list[Path]:
        """Write the domain's description, the end of its console and what its screen shows; nothing when absent."""
        domain = self._owned(vcd)
        if domain is None:
            return []
        facts = domain.facts()
        contents = {"domain.xml": domain.xml().encode()}
        if facts.console is not None:
            contents["console.txt"] = _tail(facts.console)
        if facts.screen and domain.active():
            # A screen that cannot be had is no reason to lose the rest.
            with suppress(DriverError):
                kind, picture = domain.screenshot()
                contents[f"screen.{kind}"] = picture
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        return [directory / name for name in contents]

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Run a command inside the VM by its guest agent, and wait for its end; it is killed when the time is up."""
        advice = "see that qemu-guest-agent runs in the VM"
        with _explained(f"{vcd} cannot run {command[0]}", advice):
            return self._agent(vcd, self._domain(vcd)).run(command, timeout_s=timeout_s, stdin=stdin)

    def write(self, vcd: str, path: str, content: bytes) -> None:
        """Write a file in the VM by its guest agent; everybody there may read and write it."""
        with _explained(f"{vcd} cannot take {path}", "see that qemu-guest-agent runs in the VM"):
            self._agent(vcd, self._domain(vcd)).write(path, content)

    def remove(self) -> None:
        """Remove the domains with their snapshots, let go of adopted ones, then their files and the network."""
        together(lambda found: self._remove(*found), self._labelled())
        try:
            shutil.rmtree(self._plan.directory)
        except FileNotFoundError:
            pass
        except OSError as e:
            raise DriverError(f"{e.filename} cannot be removed, {e.strerror}: remove it by hand") from e
        self._host.remove_network(self._plan.network())

    def close(self) -> None:
        """Let go of the connection, and end :meth:`events`."""
        self._closing.set()
        if self._subscription is not None:
            self._subscription()
        self._hypervisor.close()

    def _check_adoptable(self, vcd: Vcd) -> None:
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
        self._check_kind_possible(vcd.name, domain)

    def _check_kind_possible(self, vcd: str, domain: Domain) -> None:
        if self._kind is not SnapshotKind.OVERLAY:
            Inside(domain).check_possible(vcd, self._hypervisor.version())
        elif self._manifest.vcd[vcd].domain:
            raise DriverError(
                f'{vcd} is an existing domain, whose disks are left as they are: set rollback.snapshot = "memory"'
            )

    def _labelled(self) -> list[tuple[Domain, Label]]:
        """All domains that carry this stack's label."""
        found = []
        for name in self._hypervisor.domains():
            domain = Domain(self._hypervisor, name)
            # Somebody else's domain may go away meanwhile.
            with suppress(MissingError):
                label = domain.label()
                if label is not None and label.stack == self._stack:
                    found.append((domain, label))
        return found

    def _owned(self, vcd: str) -> Domain | None:
        domain = Domain(self._hypervisor, self._plan.domain(vcd))
        with suppress(MissingError):
            label = domain.label()
            if label is not None and (label.stack, label.vcd) == (self._stack, vcd):
                return domain
        return None

    def _domain(self, vcd: str) -> Domain:
        domain = self._owned(vcd)
        if domain is None:
            raise DriverError(f'{vcd} has no domain "{self._plan.domain(vcd)}" of its own: idm up makes it')
        return domain

    def _agent(self, vcd: str, domain: Domain) -> GuestAgent:
        return GuestAgent(vcd, domain, self._closing.wait)

    def _layers(self, vcd: str) -> Layers:
        return Layers(self._plan.disk(vcd))

    def _keeper(self, vcd: str, domain: Domain) -> Inside | Layers:
        return self._layers(vcd) if self._kind is SnapshotKind.OVERLAY else Inside(domain)

    def _notes(self, vcd: str) -> list[Note]:
        domain = self._owned(vcd)
        inside = Inside(domain).notes() if domain is not None else []
        return [note for note in (*inside, *self._layers(vcd).notes()) if note.stack == self._stack]

    def _heed(self, event: Event) -> Iterator[str]:
        vcd = self._plan.vcd(event.domain)
        if not vcd or (domain := self._owned(vcd)) is None:
            yield from [vcd] if vcd else []
            return
        if event.turn is Turn.REBOOT:
            # It may be off by now.
            with suppress(RefusedError):
                domain.mark_run(f".{secrets.token_hex(4)}")
        if event.turn is Turn.REVERT and vcd not in self._restoring:
            # Somebody else has taken it back, who may have left its clock alone.
            self._set_clock(vcd, domain)
            with suppress(RefusedError):
                self._reverted[vcd] = f"{self._boot}.{domain.run()}"
        yield vcd

    def _check_before_saving(self, domains: dict[str, Domain], tag: str) -> None:
        for vcd, domain in domains.items():
            if (power := domain.power()) is not Power.RUNNING:
                raise DriverError(
                    f"{vcd} is {power.value}, and a snapshot takes running VCDs: start it first"
                )
            notes = self._notes(vcd)
            if tag in {note.tag for note in notes}:
                raise DriverError(f'{vcd} has a snapshot "{tag}" already: choose another tag')
            refuse_mixture(notes, self._kind)
            self._check_kind_possible(vcd, domain)

    def _save(self, domain: Domain, note: Note) -> None:
        keeper = self._keeper(note.vcd, domain)
        keeper.save(note)
        keeper.amend(msgspec.structs.replace(note, size=keeper.size(note.tag)))

    @contextmanager
    def _still(self, domains: list[Domain]) -> Iterator[None]:
        """Hold all domains, or shut them off; let them run at the end, also when not all could be held."""
        memory = self._kind is SnapshotKind.MEMORY
        try:
            with _explained("the stack cannot be held for a snapshot", "see virsh list"):
                together(Domain.suspend if memory else self._shut_down_cleanly, domains)
            yield
        finally:
            together(lambda domain: self._patiently(lambda: _let_run(domain)), domains)

    def _shut_down_cleanly(self, domain: Domain) -> None:
        if not self._shut_down(domain, within_s=SHUTDOWN_S):
            raise DriverError(
                f"{domain.name} does not shut down within {SHUTDOWN_S:.0f} s: let its guest heed the power button"
            )

    def _shut_down(self, domain: Domain, *, within_s: float) -> bool:
        """Ask the guest to power off; returns whether it did."""
        deadline = time.monotonic() + within_s
        if domain.power() is Power.RUNNING:
            domain.shutdown()
            while domain.active() and time.monotonic() < deadline:
                self._closing.wait(LOOK_S)
        return not domain.active()

    def _check_before_restoring(self, vcd: str, tag: str) -> Domain:
        domain = self._domain(vcd)
        note = next((note for note in self._notes(vcd) if note.tag == tag), None)
        if note is None:
            raise DriverError(f'{vcd} has no snapshot "{tag}": choose one that idm snapshots lists')
        refuse_mixture([note], self._kind)
        if not domain.persistent():
            raise DriverError(
                f'domain "{domain.name}" of {vcd} is no longer defined: virsh define it, or idm down and idm up'
            )
        self._keeper(vcd, domain).check_present(vcd, tag)
        return domain

    def _take_back(self, domain: Domain, vcd: str, tag: str) -> None:
        """Begun anew from any point where it broke off, it ends the same."""
        # Reverting a domain that runs takes longer than ending it first.
        domain.destroy()
        self._keeper(vcd, domain).go_back(tag)

    def _remove(self, domain: Domain, label: Label) -> None:
        with _explained(f"{label.vcd} cannot be removed", f"see virsh undefine {domain.name}"):
            if label.spec:
                domain.destroy()
                # One that was only running, and not defined, is gone now.
                with suppress(MissingError):
                    domain.undefine()
                return
            inside = Inside(domain)
            for note in inside.notes():
                inside.delete(note.tag)
            domain.set_label(None)
            if label.ran:
                _let_run(domain)
            else:
                domain.destroy()

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


def _resume(domain: Domain) -> None:
    if domain.power() is Power.PAUSED:
        domain.resume()


def _let_run(domain: Domain) -> None:
    _resume(domain)
    if not domain.active():
        domain.create()


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - CONSOLE_BYTES))
            return log.read(CONSOLE_BYTES)
    except OSError as e:
        return f"{path} cannot be read: {e.strerror}\n".encode()


@contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    """Say what was refused, and what to try; a daemon that does not answer speaks for itself."""
    try:
        yield
    except RefusedError as e:
        raise DriverError(f"{what}: {e}: {advice}") from e
