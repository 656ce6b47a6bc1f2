"""Guests of the VM lab: what they are made of, and how they boot."""

import fcntl
import os
import subprocess
import time
from contextlib import ExitStack, suppress
from ipaddress import IPv4Interface
from pathlib import Path
from typing import NamedTuple, Self
from xml.etree.ElementTree import Element, SubElement, tostring

import libvirt

from tests.lab.namespace import run
from tests.lab.vm_agent import GuestAgent
from tests.lab.vm_image import GuestImage

BOOT_S = 180
KVM = Path("/dev/kvm")
KVM_CREATE_VM = 0xAE01
EMULATOR = Path("/usr/bin/qemu-system-x86_64")
CPU = "qemu64"
TB_CACHE_MIB = 64
KERNEL_ARGUMENTS = "console=ttyS0 root=/dev/vda rw mitigations=off quiet net.ifnames=0"


class Platform(NamedTuple):
    """What this machine runs guests with: the domain type, ``kvm`` or ``qemu``, and the bridge they are attached to."""

    kind: str
    bridge: str

    @classmethod
    def probe(cls, *, bridge: str) -> Self:
        """Hardware virtualisation where this process may use it, else emulation."""
        return cls("kvm" if _kvm() else "qemu", bridge)

    def __str__(self) -> str:
        version = run([str(EMULATOR), "--version"]).splitlines()[0]
        return f"{self.kind} {version} {CPU}"


class GuestSpec(NamedTuple):
    """One guest: its name is the domain's and the host's; the address has its network's prefix length.

    Without an address its network interface is down.
    """

    name: str
    address: IPv4Interface | None
    memory_mib: int

    @property
    def mac(self) -> str:
        """A locally assigned link address that no other guest of the network has."""
        packed = self.address.packed if self.address else bytes(4)
        return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *packed))


class Guest:
    """A domain that runs, and the agent inside. It ends with its lab."""

    def __init__(self, spec: GuestSpec, domain: libvirt.virDomain, console: Path) -> None:
        self.name = spec.name
        self.address = spec.address.ip if spec.address else None
        self.domain = domain
        self.console = console
        self.agent = GuestAgent(domain)

    @classmethod
    def define(
        cls,
        connection: libvirt.virConnect,
        platform: Platform,
        spec: GuestSpec,
        image: GuestImage,
        directory: Path,
    ) -> Self:
        """A domain that is not running yet; its disk is ``<name>.qcow2`` in ``directory``."""
        domain = connection.defineXML(domain_xml(platform, spec, image, directory))
        return cls(spec, domain, console(spec, directory))

    @classmethod
    def boot(
        cls,
        connection: libvirt.virConnect,
        platform: Platform,
        spec: GuestSpec,
        image: GuestImage,
        directory: Path,
    ) -> Self:
        """A guest of its own overlay on the image, booted; returns when all its services are up."""
        overlay(image, disk(spec, directory))
        guest = cls.define(connection, platform, spec, image, directory)
        guest.domain.create()
        guest.wait_until_up()
        return guest

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program inside; raises LabError if it fails and ``check`` is set."""
        return self.agent.run(*command, check=check, timeout_s=timeout_s)

    def wait_until_up(self) -> None:
        """Wait for the end of a boot, however it went for single services."""
        deadline = time.monotonic() + BOOT_S
        self.agent.wait(deadline)
        left_s = max(1, deadline - time.monotonic())
        self.run("systemctl", "is-system-running", "--wait", check=False, timeout_s=left_s)


def disk(spec: GuestSpec, directory: Path) -> Path:
    """Where a guest's overlay lies."""
    return directory / f"{spec.name}.qcow2"


def console(spec: GuestSpec, directory: Path) -> Path:
    """Where a guest's serial console is logged."""
    return directory / f"{spec.name}.console"


def overlay(image: GuestImage, path: Path) -> None:
    """An empty overlay on the image."""
    backing = ("-b", str(image.disk), "-F", "qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path)])


def domain_xml(platform: Platform, spec: GuestSpec, image: GuestImage, directory: Path) -> str:
    """The domain of a guest, as libvirt takes it."""
    domain = Element("domain", type=platform.kind)
    SubElement(domain, "name").text = spec.name
    SubElement(domain, "memory", unit="MiB").text = str(spec.memory_mib)
    SubElement(domain, "vcpu").text = "1"
    system = SubElement(domain, "os")
    SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    SubElement(system, "kernel").text = str(image.kernel)
    SubElement(system, "initrd").text = str(image.initramfs)
    address = f" lab.address={spec.address}" if spec.address else ""
    SubElement(system, "cmdline").text = f"{KERNEL_ARGUMENTS} lab.name={spec.name}{address}"
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    if platform.kind == "qemu":
        SubElement(SubElement(features, "tcg"), "tb-cache", unit="MiB").text = str(TB_CACHE_MIB)
    cpu = SubElement(domain, "cpu", mode="custom", match="exact", check="none")
    SubElement(cpu, "model").text = CPU
    SubElement(domain, "clock", offset="utc")
    SubElement(domain, "on_crash").text = "destroy"
    _devices(SubElement(domain, "devices"), platform, spec, directory)
    SubElement(domain, "seclabel", type="none")
    return tostring(domain, encoding="unicode")


def _devices(devices: Element, platform: Platform, spec: GuestSpec, directory: Path) -> None:
    SubElement(devices, "emulator").text = str(EMULATOR)
    drive = SubElement(devices, "disk", type="file", device="disk")
    # A lab's disk may be lost with the machine; it need not be synchronous.
    SubElement(drive, "driver", name="qemu", type="qcow2", cache="unsafe")
    SubElement(drive, "source", file=str(disk(spec, directory)))
    SubElement(drive, "target", dev="vda", bus="virtio")
    interface = SubElement(devices, "interface", type="bridge")
    SubElement(interface, "source", bridge=platform.bridge)
    SubElement(interface, "mac", address=spec.mac)
    SubElement(interface, "model", type="virtio")
    SubElement(interface, "rom", enabled="no")
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    serial = SubElement(devices, "serial", type="file")
    SubElement(serial, "source", path=str(console(spec, directory)), append="on")
    SubElement(serial, "target", port="0")
    SubElement(devices, "memballoon", model="none")


def _kvm() -> bool:
    """Asks the processor, too: a device alone may be of a hypervisor that runs only guests made for it."""
    flags = set(Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split())
    if not flags & {"vmx", "svm"}:
        return False
    with suppress(OSError), ExitStack() as stack:
        kvm = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, kvm)
        os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
        return True
    return False
