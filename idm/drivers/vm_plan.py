"""What a manifest's VMs and their network are made as, on this host. Pure."""

import hashlib
from ipaddress import IPv4Address, ip_network
from pathlib import Path

from idm.drivers.domain import DomainSpec, Label, NetworkSpec, Nic, Platform, build_domain
from idm.manifest import Manifest, Vcd


class Plan:
    """The names and places of one stack; its files are below ``directory``."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self._manifest = manifest
        self.stack = manifest.stack.name
        self.directory = directory / self.stack

    def domain(self, vcd: str) -> str:
        """The name of a VCD's domain."""
        known = self._manifest.vcd.get(vcd)
        return (known.domain if known else "") or f"{self.stack}-{vcd}"

    def vcd(self, domain: str) -> str:
        """The VCD of a domain, by the manifest; empty for others."""
        return next((vcd for vcd in self._manifest.vcd if self.domain(vcd) == domain), "")

    def disk(self, vcd: str) -> Path:
        """The disk that a VM writes to."""
        return self.directory / f"{vcd}.qcow2"

    def console(self, vcd: str) -> Path:
        """Where a VM's serial console is kept."""
        return self.directory / f"{vcd}.console"

    def seed(self, vcd: str) -> Path:
        """A file system with a VM's first configuration; attached when it is there as the VM is defined."""
        return self.directory / f"{vcd}.seed"

    def define(self, vcd: Vcd, platform: Platform) -> str:
        """The definition of a VM that is made from an image."""
        seed = self.seed(vcd.name)
        spec = DomainSpec(
            name=self.domain(vcd.name),
            platform=platform,
            machine=vcd.machine,
            nic=self._nic(vcd),
            disk=self.disk(vcd.name),
            console=self.console(vcd.name),
            seed=seed if seed.exists() else None,
        )
        digest = hashlib.sha256(repr((spec, vcd.image)).encode()).hexdigest()
        return build_domain(spec, Label(self.stack, vcd.name, digest))

    def network(self) -> NetworkSpec | None:
        """The network to be made; none when VMs are attached to one that is there."""
        network = self._manifest.network
        if network.bridge or network.libvirt:
            return None
        subnet = ip_network(network.subnet)
        vcds = self._manifest.vcd.values()
        return NetworkSpec(
            name=f"stackmend-{self.stack}",
            gateway=str(subnet.network_address + 1),
            netmask=str(subnet.netmask),
            vms={mac(vcd.address): (vcd.name, vcd.address) for vcd in vcds},
            hosts=network.hosts,
        )

    def _nic(self, vcd: Vcd) -> Nic:
        network, made = self._manifest.network, self.network()
        return Nic(mac(vcd.address), network.bridge, made.name if made else network.libvirt)


def mac(address: str) -> str:
    """A hardware address of QEMU's for each address."""
    return "52:54:" + IPv4Address(address).packed.hex(":")
