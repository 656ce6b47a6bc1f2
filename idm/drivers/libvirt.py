"""Stacks of VMs: every VCD is a domain of libvirt, a snapshot is kept inside its disks or as a layer below them."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

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
    explained,
)
from idm.drivers.libvirt_domain import Domain
from idm.drivers.libvirt_host import Host
from idm.drivers.together import together
from idm.drivers.vm_domains import Domains
from idm.drivers.vm_group import RECONNECT_AGAIN_S, RECONNECT_S, Group
from idm.drivers.vm_plan import Plan
from idm.drivers.vm_reverts import Reverts
from idm.drivers.vm_snapshots import Inside
from idm.errors import DeployError
from idm.manifest import Manifest, SnapshotKind, Vcd
from idm.settings import Libvirt

CONSOLE_BYTES = 64 * 1024
BOOT = Path("/proc/sys/kernel/random/boot_id")

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
        self._domains = Domains(manifest, self._hypervisor, self._plan)
        self._reverts = Reverts()
        self._closing = threading.Event()
        self._group = Group(self._domains, self._closing)
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
                self._domains.check_adoptable(vcd)
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
            with explained(f"{vcd.name} cannot be created", "see its machine in the manifest"):
                self._hypervisor.define(self._plan.define(vcd, self._host.platform()))
        except (DeployError, DriverError):
            for path in (disk, seed):
                path.unlink(missing_ok=True)
            raise

    def start(self, vcd: str) -> None:
        """Start, or resume when paused."""
        domain = self._domains.of(vcd)
        advice = f"see virsh start {domain.name}"
        with explained(f"{vcd} cannot be started", advice), self._reverts.ours(vcd):
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
        domain = self._domains.of(vcd)
        with explained(f"{vcd} cannot be stopped", f"see virsh destroy {domain.name}"):
            if not domain.shut_down(within_s=grace_s, wait=self._closing.wait):
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
        for domain, label in self._domains.labelled():
            with suppress(MissingError):
                # In this order: what is seen of a run belongs to it or to the one before.
                condition = domain.condition()
                incarnation = self._incarnation(domain)
                reverted = self._reverts.look(label.vcd, incarnation, from_snapshot=condition.from_snapshot)
                held = "" if self._reverts.is_ours(label.vcd) else condition.held
                found[label.vcd] = Instance(
                    label.vcd, condition.power, incarnation, None, None, reverted, held
                )
        return found

    def _incarnation(self, domain: Domain) -> str:
        run = domain.run()
        return f"{self._boot}.{run}" if run else ""

    def events(self) -> Iterator[str]:
        """Yield every VCD when the subscription is made, anew after libvirt was away, and then whatever changes.

        To be iterated by one thread at a time.
        """
        deadline = time.monotonic() + RECONNECT_S
        while not self._closing.is_set():
            try:
                with self._hypervisor.events() as events:
                    self._subscription = events.end
                    for vcd in self._manifest.vcd:
                        self._domains.claim_again(vcd)
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
        return self._group.save(vcds, tag=tag, golden=golden)

    def restore(self, vcd: str, *, tag: str) -> None:
        """Take the VM back and let it run, together with the others that go back to the same tag right now."""
        with self._reverts.ours(vcd):
            domain = self._group.take_back(vcd, tag=tag)
            with suppress(DriverError):
                self._reverts.note_ours(vcd, self._incarnation(domain))
        self._set_clock(vcd, domain)

    def _set_clock(self, vcd: str, domain: Domain) -> None:
        """A guest that was saved with its memory goes on at the time of its snapshot."""
        if self._kind is SnapshotKind.MEMORY:
            self._clocks.set(vcd, domain, self._agent(vcd, domain))

    def snapshots(self) -> list[Snapshot]:
        """All snapshots of this stack, oldest first."""
        return self._group.all()

    def delete_snapshot(self, vcd: str, *, tag: str) -> None:
        """Remove one snapshot; harmless when absent. A layer that is stood on stays until nothing does."""
        self._group.delete(vcd, tag=tag)

    def evidence(self, vcd: str, directory: Path) -> list[Path]:
        """Write the domain's description, the end of its console and what its screen shows; nothing when absent."""
        domain = self._domains.owned(vcd)
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
        with explained(f"{vcd} cannot run {command[0]}", advice):
            return self._agent(vcd, self._domains.of(vcd)).run(command, timeout_s=timeout_s, stdin=stdin)

    def write(self, vcd: str, path: str, content: bytes) -> None:
        """Write a file in the VM by its guest agent; everybody there may read and write it."""
        with explained(f"{vcd} cannot take {path}", "see that qemu-guest-agent runs in the VM"):
            self._agent(vcd, self._domains.of(vcd)).write(path, content)

    def remove(self) -> None:
        """Remove the domains with their snapshots, let go of adopted ones, then their files and the network."""
        together(lambda found: self._remove(*found), self._domains.labelled())
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

    def _agent(self, vcd: str, domain: Domain) -> GuestAgent:
        return GuestAgent(vcd, domain, self._closing.wait)

    def _heed(self, event: Event) -> Iterator[str]:
        if not (vcd := self._plan.vcd(event.domain)):
            return
        if event.turn is Turn.LEAVE:
            self._reverts.note_leave(vcd)
        # What it does can be seen already; all else may have to wait until libvirt is through with it.
        yield vcd
        self._domains.claim_again(vcd)
        if (domain := self._domains.owned(vcd)) is None:
            return
        if event.turn is Turn.REBOOT:
            # It may be off by now.
            with suppress(RefusedError):
                domain.mark_run(f".{secrets.token_hex(4)}")
        if event.turn in (Turn.REVERT, Turn.RESUME) and not self._reverts.is_ours(vcd):
            with suppress(RefusedError):
                incarnation = self._incarnation(domain)
                # It may have been started anew since.
                back = event.turn is Turn.REVERT and incarnation.split(".")[1:2] == [str(event.number)]
                self._reverts.look(vcd, incarnation, from_snapshot=back)
            # Who has taken it back, saved it or held it may have left its clock alone.
            self._set_clock(vcd, domain)
        yield vcd

    def _remove(self, domain: Domain, label: Label) -> None:
        with explained(f"{label.vcd} cannot be removed", f"see virsh undefine {domain.name}"):
            if label.spec:
                domain.destroy()
                # One that was only running, and not defined, is gone now.
                with suppress(MissingError):
                    domain.undefine()
                return
            inside = Inside(domain)
            for note in inside.notes():
                inside.delete(note.tag)
            self._domains.let_go(domain)
            if label.ran:
                domain.let_run()
            else:
                domain.destroy()


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - CONSOLE_BYTES))
            return log.read(CONSOLE_BYTES)
    except OSError as e:
        return f"{path} cannot be read: {e.strerror}\n".encode()
