"""Guests of the VM lab: what they are made of, and how they boot."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from ipaddress import IPv4Interface
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import libvirt

from tests.lab.namespace import run
from tests.lab.vm_agent import GuestAgent
from tests.lab.vm_image import SITE_PACKAGES, GuestImage

BOOT_S = 300
INSTALL_S = 120
KVM = Path("/dev/kvm")
KVM_CREATE_VM = 0xAE01
EMULATOR = Path("/usr/bin/qemu-system-x86_64")
CPU = "qemu64"
TB_CACHE_MIB = 256
COUNTING = "shift=2"
"""An instruction in 4 ns, about as fast as they are emulated."""
QEMU_XML = "http://libvirt.org/schemas/domain/qemu/1.0"
KERNEL_ARGUMENTS = "console=ttyS0 root=/dev/vda rw mitigations=off quiet net.ifnames=0"


class Host(NamedTuple):
    """Where guests run: a libvirtd, the bridge they are attached to, and a directory for their disks and logs."""

    connect: Callable[[], libvirt.virConnect]
    directory: Path
    bridge: str
    kind: str
    """The domain type: ``kvm``, or ``qemu`` where instructions have to be emulated."""

    def platform(self) -> str:
        """What the state of a saved guest depends on."""
        version = run([str(EMULATOR), "--version"]).splitlines()[0]
        return f"{self.kind} {version} {CPU}"


def domain_kind() -> str:
    """Hardware virtualisation where this process may use it, else emulation."""
    return "kvm" if _kvm() else "qemu"


class GuestSpec(NamedTuple):
    """One guest: its name is the domain's and the host's; the address has its network's prefix length.

    Without an address its network interface is down.
    """

    name: str
    address: IPv4Interface | None
    memory_mib: int
    measured: bool = False
    """See ``tests.lab.vm_image.Flavour``."""
    arguments: str = ""
    """Further ones for its kernel."""

    @property
    def mac(self) -> str:
        """A locally assigned link address that no other guest of the network has."""
        packed = self.address.packed if self.address else bytes(4)
        return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *packed))


class Guest:
    """A domain and the agent inside; it ends with its lab. Its disk is an overlay in the host's directory."""

    def __init__(self, host: Host, spec: GuestSpec, image: GuestImage) -> None:
        self.name = spec.name
        self.disk = host.directory / f"{spec.name}.qcow2"
        self.console = host.directory / f"{spec.name}.console"
        self._host, self._spec, self._image = host, spec, image

    @property
    def address(self) -> str:
        """Its address in the lab's network."""
        return str(self._spec.address.ip) if self._spec.address else ""

    @property
    def domain(self) -> libvirt.virDomain:
        """Looked up each time: a handle is dead when the daemon was restarted."""
        return self._host.connect().lookupByName(self.name)

    @property
    def agent(self) -> GuestAgent:
        """Runs commands inside."""
        return GuestAgent(self.domain)

    def boot(self) -> None:
        """Define it with an empty overlay and start it; returns when all its services are up."""
        backing = ("-b", str(self._image.disk), "-F", "qcow2")
        run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(self.disk)])
        self.define().create()
        self.wait_until_up()

    def end(self) -> None:
        """End it before its lab does."""
        self.domain.destroy()
        self.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
        self.disk.unlink()

    def define(self) -> libvirt.virDomain:
        """Make its domain known to libvirt."""
        return self._host.connect().defineXML(self.xml())

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program inside; raises LabError if it fails and ``check`` is set."""
        return self.agent.run(*command, check=check, timeout_s=timeout_s)

    def install(self, wheel: Path) -> None:
        """Put the project's code beside the libraries that the image has for it; an earlier one is replaced."""
        path = "/var/tmp/stackmend.whl"
        self.agent.write(path, wheel.read_bytes())
        unpack = f"rm -rf dm dma idm stackmend-* && python3 -m zipfile -e {path} . && rm {path}"
        # A confined service cannot keep what it compiles, and a wheel may have been compiled for another Python.
        tag = "$(python3 -c 'import sys; print(sys.implementation.cache_tag)')"
        compile_all = f"{{ [ -e dm/__pycache__/cli.{tag}.pyc ] || python3 -m compileall -q dm dma idm; }}"
        self.run("sh", "-c", f"cd {SITE_PACKAGES} && {unpack} && {compile_all}", timeout_s=INSTALL_S)

    def wait_until_up(self) -> None:
        """Wait for the end of a boot, however it went for single services."""
        deadline = time.monotonic() + BOOT_S
        self.agent.wait(deadline)
        left_s = max(1, deadline - time.monotonic())
        self.run("systemctl", "is-system-running", "--wait", check=False, timeout_s=left_s)

    def xml(self) -> str:
        """Its domain, as libvirt takes it."""
        spec, image = self._spec, self._image
        domain = Element("domain", type=self._host.kind)
        SubElement(domain, "name").text = spec.name
        SubElement(domain, "memory", unit="MiB").text = str(spec.memory_mib)
        SubElement(domain, "vcpu").text = "1"
        system = SubElement(domain, "os")
        SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
        SubElement(system, "kernel").text = str(image.kernel)
        SubElement(system, "initrd").text = str(image.initramfs)
        address = f"lab.address={spec.address}" if spec.address else ""
        words = (KERNEL_ARGUMENTS, f"lab.name={spec.name}", address, spec.arguments)
        SubElement(system, "cmdline").text = " ".join(filter(None, words))
        features = SubElement(domain, "features")
        SubElement(features, "acpi")
        if self._host.kind == "qemu":
            SubElement(SubElement(features, "tcg"), "tb-cache", unit="MiB").text = str(TB_CACHE_MIB)
        cpu = SubElement(domain, "cpu", mode="custom", match="exact", check="none")
        SubElement(cpu, "model").text = CPU
        SubElement(domain, "clock", offset="utc")
        SubElement(domain, "on_crash").text = "destroy"
        self._devices(SubElement(domain, "devices"))
        SubElement(domain, "seclabel", type="none")
        if spec.measured and self._host.kind == "qemu":
            arguments = SubElement(domain, f"{{{QEMU_XML}}}commandline")
            for argument in ("-icount", COUNTING):
                SubElement(arguments, f"{{{QEMU_XML}}}arg", value=argument)
        return tostring(domain, encoding="unicode")

    def _devices(self, devices: Element) -> None:
        SubElement(devices, "emulator").text = str(EMULATOR)
        drive = SubElement(devices, "disk", type="file", device="disk")
        # A lab's disk may be lost with the machine; it need not be synchronous.
        SubElement(drive, "driver", name="qemu", type="qcow2", cache="unsafe")
        SubElement(drive, "source", file=str(self.disk))
        SubElement(drive, "target", dev="vda", bus="virtio")
        interface = SubElement(devices, "interface", type="bridge")
        SubElement(interface, "source", bridge=self._host.bridge)
        SubElement(interface, "mac", address=self._spec.mac)
        SubElement(interface, "model", type="virtio")
        SubElement(interface, "rom", enabled="no")
        channel = SubElement(devices, "channel", type="unix")
        SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
        serial = SubElement(devices, "serial", type="file")
        SubElement(serial, "source", path=str(self.console), append="on")
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
