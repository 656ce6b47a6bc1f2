"""Libvirt's documents: typed specs become XML, and what the driver has to know is read out of XML. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid5
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from idm.manifest import Machine

# Ours; libvirt keeps one element of each namespace in a domain's metadata.
LABELS = "urn:stackmend:domain:1"
MARKS = "urn:stackmend:run:1"
NETWORKS = UUID("3c1a6ff5-7f4d-4d55-9a0e-d1c0a4f9a1d6")
AGENT_CHANNEL = "org.qemu.guest_agent.0"

ElementTree.register_namespace("stackmend", LABELS)


class Label(NamedTuple):
    """Whose a domain is. ``spec`` is the digest of what it was made from; an adopted domain has none.

    ``ran`` tells whether an adopted domain was running when it was adopted.
    """

    stack: str
    vcd: str
    spec: str = ""
    ran: bool = False


@dataclass(frozen=True)
class Platform:
    """What the hypervisor runs VMs on. Empty strings leave the choice to the hypervisor."""

    domain_type: str
    arch: str
    cpu: str = ""
    disk_cache: str = ""
    translations_mib: int = 0


@dataclass(frozen=True)
class Nic:
    """A network card on a bridge of this host, or on a network of libvirt's."""

    mac: str
    bridge: str = ""
    network: str = ""


@dataclass(frozen=True)
class DomainSpec:
    """A VM to be made. ``seed`` is a file system with its first configuration."""

    name: str
    platform: Platform
    machine: Machine
    nic: Nic
    disk: Path
    console: Path
    seed: Path | None = None


@dataclass(frozen=True)
class NetworkSpec:
    """A network without a way out: its host has the gateway's address and answers to DHCP and DNS."""

    name: str
    gateway: str
    netmask: str
    # By hardware address: name and address of each VM.
    vms: dict[str, tuple[str, str]]
    hosts: dict[str, str]

    @property
    def uuid(self) -> UUID:
        """The same for each making of a network, so that its maker is known by it."""
        return uuid5(NETWORKS, self.name)


class Disk(NamedTuple):
    """A disk of a domain that can be written to."""

    path: str
    format: str


@dataclass(frozen=True)
class Facts:
    """What a domain's description says about what can be done with it."""

    disks: tuple[Disk, ...]
    flash: bool
    console: Path | None
    screen: bool


def label_element(label: Label) -> str:
    """The label as libvirt's metadata calls take it: without the namespace, which is an argument of its own."""
    return _text(_label(label, tag="vcd"))


def read_label(text: str) -> Label:
    """The label of an element that libvirt has kept."""
    element = ElementTree.fromstring(text)
    get = element.get
    return Label(get("stack", ""), get("vcd", ""), get("spec", ""), ran=get("ran") == "yes")


def mark_element(mark: str) -> str:
    """What tells a run of a domain from the one before in the same process, as metadata."""
    return _text(Element("run", mark=mark))


def read_mark(text: str) -> str:
    """The mark of such an element; empty without one."""
    return ElementTree.fromstring(text).get("mark", "") if text else ""


def build_domain(spec: DomainSpec, label: Label) -> str:
    """The definition of a domain."""
    platform, machine = spec.platform, spec.machine
    domain = Element("domain", type=platform.domain_type)
    _leaf(domain, "name", spec.name)
    SubElement(domain, "metadata").append(_label(label, tag=f"{{{LABELS}}}vcd"))
    _leaf(domain, "memory", str(machine.memory_mib), unit="MiB")
    _leaf(domain, "vcpu", str(machine.vcpus))
    _boot(SubElement(domain, "os"), spec)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    if platform.domain_type == "qemu" and platform.translations_mib:
        _leaf(SubElement(features, "tcg"), "tb-cache", str(platform.translations_mib), unit="MiB")
    _processor(domain, platform)
    SubElement(domain, "clock", offset="utc")
    _leaf(domain, "on_reboot", "restart")
    # The screen of a guest that has panicked is evidence.
    _leaf(domain, "on_crash", "preserve")
    _devices(SubElement(domain, "devices"), spec)
    return _text(domain)


def build_network(spec: NetworkSpec) -> str:
    """The definition of a network."""
    network = Element("network")
    _leaf(network, "name", spec.name)
    _leaf(network, "uuid", str(spec.uuid))
    dns = SubElement(network, "dns")
    names = dict(spec.vms.values()) | spec.hosts
    for name, address in names.items():
        _leaf(SubElement(dns, "host", ip=address), "hostname", name)
    dhcp = SubElement(SubElement(network, "ip", address=spec.gateway, netmask=spec.netmask), "dhcp")
    for mac, (name, address) in spec.vms.items():
        SubElement(dhcp, "host", mac=mac, name=name, ip=address)
    return _text(network)


def build_snapshot(name: str, description: str) -> str:
    """The definition of a snapshot that is to be taken."""
    snapshot = Element("domainsnapshot")
    _leaf(snapshot, "name", name)
    _leaf(snapshot, "description", description)
    return _text(snapshot)


def build_found_snapshot(name: str, domain: str) -> str:
    """The definition of a snapshot that is in the images of this domain without libvirt's knowing."""
    snapshot = ElementTree.fromstring(build_snapshot(name, ""))
    _leaf(snapshot, "state", "running")
    _leaf(snapshot, "creationTime", "0")
    SubElement(snapshot, "memory", snapshot="internal")
    snapshot.append(ElementTree.fromstring(domain))
    return _text(snapshot)


def redescribe_snapshot(text: str, description: str, *, state: str) -> str:
    """A snapshot's definition with another description, and the state that a domain has after going back to it."""
    snapshot = ElementTree.fromstring(text)
    for tag, value in (("description", description), ("state", state)):
        element = snapshot.find(tag)
        (SubElement(snapshot, tag) if element is None else element).text = value
    return _text(snapshot)


def description_of(text: str) -> str:
    """What a snapshot's definition has as its description."""
    return ElementTree.fromstring(text).findtext("description", "")


def examine(text: str) -> Facts:
    """What a domain's definition says."""
    domain = ElementTree.fromstring(text)
    devices = domain.findall("devices/disk")
    loader = domain.find("os/loader")
    flash = loader is not None and loader.get("type") == "pflash"
    firmware = domain.find("os")
    efi = firmware is not None and firmware.get("firmware") == "efi"
    return Facts(
        disks=tuple(disk for disk in map(_disk, devices) if disk is not None),
        flash=flash or efi,
        console=_console(domain),
        screen=domain.find("devices/video") is not None
        and domain.find("devices/video/model[@type='none']") is None,
    )


def choose_platform(capabilities: str, *, wanted: str, virtualises: bool) -> tuple[str, str]:
    """Domain type and architecture for VMs.

    Without a wanted type it is kvm if the host has that and its processor ``virtualises``, otherwise another.

    Raises ``LookupError`` with the types that there are.
    """
    root = ElementTree.fromstring(capabilities)
    arch = root.findtext("host/cpu/arch", "")
    guest = next(
        (g for g in root.findall("guest") if (a := g.find("arch")) is not None and a.get("name") == arch),
        None,
    )
    types = [domain.get("type", "") for domain in guest.findall("arch/domain")] if guest is not None else []
    best = sorted(types, key=lambda kind: kind != "kvm")
    usable = best if virtualises else [kind for kind in best if kind != "kvm"]
    fitting = [kind for kind in best if kind == wanted] if wanted else usable
    if not fitting:
        raise LookupError(", ".join(best) or "none")
    return fitting[0], arch


def process_owner(capabilities: str, *, domain_type: str) -> tuple[int, int] | None:
    """User and group that libvirt runs such VMs as; none where it does not tell."""
    for model in ElementTree.fromstring(capabilities).findall("host/secmodel"):
        if model.findtext("model") == "dac":
            label = model.findtext(f"baselabel[@type='{domain_type}']", "").replace("+", "")
            user, _, group = label.partition(":")
            if user.isdigit() and group.isdigit():
                return int(user), int(group)
    return None


def _label(label: Label, *, tag: str) -> Element:
    values = {"stack": label.stack, "vcd": label.vcd, "spec": label.spec, "ran": "yes" if label.ran else ""}
    return Element(tag, {name: value for name, value in values.items() if value})


def _boot(os: Element, spec: DomainSpec) -> None:
    kind = _leaf(os, "type", "hvm", arch=spec.platform.arch)
    if spec.platform.arch == "x86_64":
        kind.set("machine", "q35")
    machine = spec.machine
    for tag in ("kernel", "initrd", "cmdline"):
        if value := getattr(machine, tag):
            _leaf(os, tag, value)
    if not machine.kernel:
        SubElement(os, "boot", dev="hd")


def _processor(domain: Element, platform: Platform) -> None:
    if platform.cpu:
        cpu = SubElement(domain, "cpu", mode="custom", match="exact", check="none")
        _leaf(cpu, "model", platform.cpu)
    elif platform.domain_type == "kvm":
        SubElement(domain, "cpu", mode="host-passthrough")


def _devices(devices: Element, spec: DomainSpec) -> None:
    disk = SubElement(devices, "disk", type="file", device="disk")
    driver = SubElement(disk, "driver", name="qemu", type="qcow2")
    if spec.platform.disk_cache:
        driver.set("cache", spec.platform.disk_cache)
    SubElement(disk, "source", file=str(spec.disk))
    SubElement(disk, "target", dev="vda", bus="virtio")
    if spec.seed is not None:
        seed = SubElement(devices, "disk", type="file", device="disk", snapshot="no")
        SubElement(seed, "driver", name="qemu", type="raw")
        SubElement(seed, "source", file=str(spec.seed))
        SubElement(seed, "target", dev="vdb", bus="virtio")
        SubElement(seed, "readonly")
    SubElement(devices, "controller", type="usb", model="none")
    _interface(devices, spec.nic)
    serial = SubElement(devices, "serial", type="file")
    SubElement(serial, "source", path=str(spec.console))
    SubElement(serial, "target", port="0")
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name=AGENT_CHANNEL)
    _leaf(SubElement(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    SubElement(devices, "memballoon", model="none")
    if spec.platform.arch == "x86_64":
        SubElement(devices, "panic", model="isa")
    if spec.machine.graphics:
        SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
        SubElement(SubElement(devices, "video"), "model", type="vga")


def _interface(devices: Element, nic: Nic) -> None:
    interface = SubElement(devices, "interface", type="bridge" if nic.bridge else "network")
    SubElement(interface, "mac", address=nic.mac)
    SubElement(interface, "source", {"bridge": nic.bridge} if nic.bridge else {"network": nic.network})
    SubElement(interface, "model", type="virtio")
    SubElement(interface, "rom", enabled="no")


def _disk(disk: Element) -> Disk | None:
    if (
        disk.get("device", "disk") != "disk"
        or disk.find("readonly") is not None
        or disk.get("snapshot") == "no"
    ):
        return None
    source, driver = disk.find("source"), disk.find("driver")
    places = ("file", "dev", "name", "volume")
    path = next((value for place in places if source is not None and (value := source.get(place))), "")
    return Disk(path, driver.get("type", "raw") if driver is not None else "raw")


def _console(domain: Element) -> Path | None:
    """The file that keeps what comes from the first serial port or console."""
    for serial in (*domain.findall("devices/serial"), *domain.findall("devices/console")):
        log = serial.find("log[@file]")
        if log is not None:
            return Path(log.get("file", ""))
        source = serial.find("source[@path]")
        if serial.get("type") == "file" and source is not None:
            return Path(source.get("path", ""))
    return None


def _leaf(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _text(element: Element) -> str:
    return ElementTree.tostring(element, encoding="unicode")
