"""One domain of libvirt's, by its name: what can be asked of it and done with it."""

import tempfile
import time
from collections.abc import Callable
from typing import IO, NamedTuple, TypedDict, TypeVar

import libvirt
import libvirt_qemu

from idm.driver import DriverError, Power
from idm.drivers.domain import (
    LABELS,
    MARKS,
    Facts,
    Label,
    description_of,
    examine,
    label_element,
    mark_element,
    read_label,
    read_mark,
)
from idm.drivers.libvirt_connection import CALL_S, Hypervisor, MissingError, RefusedError

SAVE_S = 300.0
REVERT_S = 120.0
LOOK_S = 0.1
SCREEN_BYTES = 32 * 1024 * 1024

T = TypeVar("T")

_POWERS = {
    libvirt.VIR_DOMAIN_RUNNING: Power.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: Power.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: Power.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: Power.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: Power.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: Power.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: Power.CRASHED,
}
_ADDRESS_SOURCES = (
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
)
_CRASHES = {
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
}
_FROM_SNAPSHOT = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT),
}
_NO_ROOM = (
    "stands still, since its disk cannot be written to: make room where its image is, and virsh resume it"
)
# What somebody has done, or is doing, that is no failure: to go back over it would lose his work.
_HELD = {
    (
        libvirt.VIR_DOMAIN_SHUTOFF,
        libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT,
    ): "was taken back to a snapshot and is off: virsh start it",
    (
        libvirt.VIR_DOMAIN_PAUSED,
        libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT,
    ): "was taken back to a snapshot and stands still: virsh resume it",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED): "is saved and off: virsh start it",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED): "was moved to another host",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): "is being started or taken back",
    # An earlier state would have no more room, and this one loses nothing by waiting.
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): _NO_ROOM,
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE): "is being saved",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT): "is being saved",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_DUMP): "has its memory dumped",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION): "is being moved to another host",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY): "is being moved to another host",
}


class _Address(TypedDict):
    addr: str
    type: int


class _Interface(TypedDict):
    hwaddr: str | None
    addrs: list[_Address] | None


class Saved(NamedTuple):
    """A snapshot that libvirt knows of; ``external`` ones are spread over files of their own."""

    name: str
    description: str
    external: bool


class Condition(NamedTuple):
    """What a domain does, and what somebody has done with it if that is no failure; see ``idm.driver.Instance``."""

    power: Power
    held: str
    from_snapshot: bool


class Domain:
    """Looked up anew by every call, so that it outlives a restart of the daemon. Errors are those of ``Hypervisor``."""

    def __init__(self, hypervisor: Hypervisor, name: str) -> None:
        self._hypervisor = hypervisor
        self.name = name

    def exists(self) -> bool:
        """Whether there is such a domain."""
        try:
            self._call(lambda domain: domain.ID())
        except MissingError:
            return False
        return True

    def persistent(self) -> bool:
        """Whether it stays when it is shut off."""
        return self._call(lambda domain: bool(domain.isPersistent()))

    def active(self) -> bool:
        """Whether it has a process."""
        return self._call(lambda domain: bool(domain.isActive()))

    def power(self) -> Power:
        """What it does right now."""
        return self.condition().power

    def condition(self) -> Condition:
        """The same, and whether it is in somebody's hands."""
        state, reason = self._call(lambda domain: domain.state())
        power = Power.CRASHED if (state, reason) in _CRASHES else _POWERS.get(state, Power.RUNNING)
        return Condition(power, _HELD.get((state, reason), ""), (state, reason) in _FROM_SNAPSHOT)

    def addresses(self) -> dict[str, list[str]]:
        """Its IPv4 addresses by hardware address: from its guest agent, else leases, else who was in touch with it."""
        found: dict[str, list[str]] = {}
        for source in _ADDRESS_SOURCES:
            for mac, addresses in self._addresses(source).items():
                found.setdefault(mac, addresses)
        return found

    def leased(self) -> dict[str, list[str]]:
        """The same, but only those that libvirt has given out by DHCP."""
        return self._addresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)

    def _addresses(self, source: int) -> dict[str, list[str]]:
        try:
            cards = self._call(lambda domain: _interfaces(domain, source=source))
        except RefusedError:
            # Each source may be unable to tell.
            return {}
        kind = libvirt.VIR_IP_ADDR_TYPE_IPV4
        told = {
            (card["hwaddr"] or "").lower(): [
                one["addr"] for one in card["addrs"] or () if one["type"] == kind
            ]
            for card in cards.values()
        }
        return {mac: addresses for mac, addresses in told.items() if addresses}

    def run(self) -> str:
        """What tells this run from others of this boot of the host; empty when it does not run."""
        identifier = self._call(lambda domain: int(domain.ID()))
        return "" if identifier < 0 else f"{identifier}{read_mark(self._metadata(MARKS))}"

    def mark_run(self, mark: str) -> None:
        """Tell this run from before, because the guest has begun anew in the same process."""
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        self._call(
            lambda domain: domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, mark_element(mark), "stackmend-run", MARKS, live
            )
        )

    def label(self) -> Label | None:
        """Whose it is, unless it carries no label of ours."""
        text = self._metadata(LABELS)
        return read_label(text) if text else None

    def set_label(self, label: Label | None) -> None:
        """Put the label on, or take it off."""
        text = label_element(label) if label else None

        def put(domain: "libvirt.virDomain") -> None:
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "stackmend", LABELS, flags)

        self._call(put)

    def xml(self) -> str:
        """Its description as it runs, else as it is defined."""
        return self._call(lambda domain: str(domain.XMLDesc()))

    def facts(self) -> Facts:
        """What its description says about what can be done with it."""
        return examine(self.xml())

    def create(self) -> None:
        """Start it."""
        self._call(lambda domain: domain.create(), timeout_s=REVERT_S)

    def suspend(self) -> None:
        """Hold its processors."""
        self._call(lambda domain: domain.suspend())

    def resume(self) -> None:
        """Let its processors go on."""
        self._call(lambda domain: domain.resume())

    def go_on(self) -> None:
        """Resume it if it is held."""
        if self.power() is Power.PAUSED:
            self.resume()

    def let_run(self) -> None:
        """Resume or start it, as it needs."""
        self.go_on()
        if not self.active():
            self.create()

    def shut_down(self, *, within_s: float, wait: Callable[[float], object]) -> bool:
        """Ask the guest to power off; returns whether it did. ``wait`` passes some seconds."""
        deadline = time.monotonic() + within_s
        if self.power() is Power.RUNNING:
            self._call(lambda domain: domain.shutdown())
            while self.active() and time.monotonic() < deadline:
                wait(LOOK_S)
        return not self.active()

    def destroy(self) -> None:
        """Kill it; harmless when it does not run."""

        def kill(domain: "libvirt.virDomain") -> None:
            try:
                domain.destroy()
            except libvirt.libvirtError:
                if domain.isActive():
                    raise

        self._call(kill)

    def undefine(self) -> None:
        """Forget it, with its snapshots and saved state; their files stay."""
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        self._call(lambda domain: domain.undefineFlags(flags))

    def snapshots(self) -> list[Saved]:
        """All its snapshots, of whomever they are."""

        def look(domain: "libvirt.virDomain") -> list[Saved]:
            outside = {
                snapshot.getName()
                for snapshot in domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL)
            }
            return [
                Saved(
                    snapshot.getName(), description_of(snapshot.getXMLDesc()), snapshot.getName() in outside
                )
                for snapshot in domain.listAllSnapshots()
            ]

        return self._call(look)

    def snapshot_xml(self, name: str) -> str:
        """A snapshot's definition, whole."""
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE
        return self._call(lambda domain: str(domain.snapshotLookupByName(name).getXMLDesc(flags)))

    def save(self, xml: str) -> None:
        """Take a snapshot."""
        self._call(lambda domain: domain.snapshotCreateXML(xml, 0), timeout_s=SAVE_S)

    def redefine_snapshot(self, xml: str) -> None:
        """Change what libvirt keeps about a snapshot; the images stay as they are."""
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        self._call(lambda domain: domain.snapshotCreateXML(xml, flags))

    def revert(self, name: str) -> None:
        """Go back to a snapshot, with the processors held."""
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED
        self._call(
            lambda domain: domain.revertToSnapshot(domain.snapshotLookupByName(name), flags),
            timeout_s=REVERT_S,
        )

    def delete_snapshot(self, name: str, *, in_image: bool = True) -> None:
        """Delete a snapshot, or only what libvirt knows of it."""
        flags = 0 if in_image else libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY
        self._call(lambda domain: domain.snapshotLookupByName(name).delete(flags), timeout_s=SAVE_S)

    def ask_agent(self, command: str, *, timeout_s: float) -> str:
        """The answer of the guest's agent, both as JSON."""
        seconds = max(1, round(timeout_s))
        return self._call(
            lambda domain: str(libvirt_qemu.qemuAgentCommand(domain, command, seconds, 0)),
            timeout_s=timeout_s + CALL_S,
        )

    def screenshot(self) -> tuple[str, bytes]:
        """What its screen shows: the kind of image, such as ``png``, and the image."""

        def shoot(connection: "libvirt.virConnect") -> tuple[str, bytes]:
            stream = connection.newStream()
            # The kind depends on QEMU's release: image/png, or before 7.1 image/x-portable-pixmap.
            kind = connection.lookupByName(self.name).screenshot(stream, 0)
            with tempfile.TemporaryFile() as picture:
                stream.recvAll(_receive, picture)
                stream.finish()
                picture.seek(0)
                return "png" if kind == "image/png" else "ppm", picture.read()

        return self._hypervisor.call(shoot)

    def _call(self, action: Callable[["libvirt.virDomain"], T], *, timeout_s: float = CALL_S) -> T:
        return self._hypervisor.call(
            lambda connection: action(connection.lookupByName(self.name)), timeout_s=timeout_s
        )

    def _metadata(self, namespace: str) -> str:
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        try:
            return self._call(lambda domain: str(domain.metadata(kind, namespace)))
        except MissingError:
            if not self.exists():
                raise
            return ""


def _interfaces(domain: "libvirt.virDomain", *, source: int) -> dict[str, _Interface]:
    found: dict[str, _Interface] = domain.interfaceAddresses(source)
    return found


def _receive(_: object, data: bytes, picture: IO[bytes]) -> int:
    if picture.tell() + len(data) > SCREEN_BYTES:
        raise DriverError(f"the screenshot is larger than {SCREEN_BYTES} bytes: use a smaller screen")
    return picture.write(data)
