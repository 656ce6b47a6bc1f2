"""Guests within seconds: one boots and is saved with its memory; others begin as copies of it."""

import hashlib
import secrets
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import libvirt

from tests.lab.namespace import run
from tests.lab.vm_guest import Guest, GuestSpec, Host
from tests.lab.vm_image import SITE_PACKAGES, Flavour, GuestImage, ensure_wheel
from tests.lab.vm_store import Store

SNAPSHOT = "golden"
IDENTITY = "/usr/local/sbin/lab-identity"
PIPE = "/run/lab-identity"
UNIT = "stackmend-dma.service"
ENABLE = (
    f"install -m0644 {SITE_PACKAGES}/idm/units/{UNIT} /lib/systemd/system && systemctl --quiet enable {UNIT}"
)
REVIVE_S = 60
WARM_S = 120


class Golden(NamedTuple):
    """A disk with the internal snapshot of a guest, in which process ``waiting`` wants to know who the guest is."""

    disk: Path
    waiting: int
    digest: str


def golden(store: Store, host: Host, image: GuestImage, *, flavour: Flavour, memory_mib: int) -> Golden:
    """The store's golden guest of this image, of a flavour, and size, booted once if there is none."""
    spec = GuestSpec(SNAPSHOT, None, memory_mib, flavour.measured)

    def build(target: Path) -> None:
        target.mkdir()
        guest = Guest(host._replace(directory=target), spec, image)
        guest.boot()
        waiting = guest.agent.start((IDENTITY,))
        guest.run("timeout", "20", "sh", "-c", f"until [ -p {PIPE} ]; do sleep 0.1; done")
        _keep(guest, waiting)

    made_of = Guest(host._replace(directory=Path("/")), spec, image)
    digest = hashlib.sha256(f"{host.platform()} {made_of.xml()}".encode()).hexdigest()
    return _golden(store.ensure(f"golden-{flavour.name}-{memory_mib}", digest, build), digest)


def golden_with_product(
    store: Store, host: Host, image: GuestImage, base: Golden, *, flavour: Flavour, memory_mib: int
) -> Golden:
    """A golden guest with this tree's code and the agent's unit, used once: what it reads of its disk stays in memory.

    Without its configuration the unit does not start.
    """
    wheel = ensure_wheel(store)

    def build(target: Path) -> None:
        target.mkdir()
        spec = GuestSpec(SNAPSHOT, None, memory_mib, flavour.measured)
        guest = Guest(host._replace(directory=target), spec, image)
        _begin(guest, base)
        guest.install(wheel)
        guest.run("sh", "-c", ENABLE, timeout_s=WARM_S)
        guest.run("dma", "doctor", timeout_s=WARM_S)
        _keep(guest, base.waiting)

    digest = hashlib.sha256(f"{base.digest} {wheel.parent.name} {ENABLE}".encode()).hexdigest()
    return _golden(store.ensure(f"golden-{flavour.name}-product-{memory_mib}", digest, build), digest)


def revive(host: Host, spec: GuestSpec, image: GuestImage, kept: Golden) -> Guest:
    """A guest of its own from a copy of the golden one; returns when it has its name, address and the right time."""
    guest = Guest(host, spec, image)
    _begin(guest, kept)
    identity = f"{time.time():.3f} {spec.name} {spec.address} {spec.mac} {secrets.token_hex(32)}\n"
    agent = guest.agent
    agent.write(PIPE, identity.encode())
    agent.wait_for(kept.waiting, IDENTITY, timeout_s=REVIVE_S)
    agent.correct_clock()
    return guest


def _golden(made: Path, digest: str) -> Golden:
    return Golden(made / f"{SNAPSHOT}.qcow2", int((made / "waiting").read_text()), digest)


def _keep(guest: Guest, waiting: int) -> None:
    """Save the guest with its memory, and end it."""
    guest.run("sync")
    domain = guest.domain
    domain.suspend()
    domain.snapshotCreateXML(f"<domainsnapshot><name>{SNAPSHOT}</name></domainsnapshot>", 0)
    domain.destroy()
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    (guest.disk.parent / "waiting").write_text(str(waiting))


def _begin(guest: Guest, kept: Golden) -> None:
    """Go on from a copy of the golden guest; returns when it answers."""
    run(["cp", "--reflink=auto", "--sparse=always", str(kept.disk), str(guest.disk)])
    domain = guest.define()
    snapshot = domain.snapshotCreateXML(
        _snapshot_xml(domain),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT,
    )
    domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
    guest.agent.wait(time.monotonic() + REVIVE_S)
    snapshot.delete()


def _snapshot_xml(domain: libvirt.virDomain) -> str:
    """The kept snapshot as one of this domain, which has the same devices at the same places."""
    snapshot = Element("domainsnapshot")
    SubElement(snapshot, "name").text = SNAPSHOT
    SubElement(snapshot, "state").text = "paused"
    SubElement(snapshot, "creationTime").text = str(int(time.time()))
    SubElement(snapshot, "memory", snapshot="internal")
    SubElement(SubElement(snapshot, "disks"), "disk", name="vda", snapshot="internal")
    snapshot.append(
        fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    )
    return tostring(snapshot, encoding="unicode")
