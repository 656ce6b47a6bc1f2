"""One stack on this host: its manifest, where its files are, what runs its machines, and how its manager is reached."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from idm.ca import Authority
from idm.delivery.agent import agent_payload
from idm.delivery.guest import Installer, Shell
from idm.delivery.install import BundleInstaller
from idm.delivery.manager import manager_payload
from idm.delivery.payload import Payload
from idm.driver import Driver
from idm.home import Home
from idm.manager import Access, endpoint, manager
from idm.manifest import Delivery, Manifest
from idm.supervise import Child


@dataclass(frozen=True)
class Stack:
    """One stack, as its manifest and the host's settings have it.

    ``guests`` runs programs in its VMs, whose agents are services of theirs, and ``bundles`` is a directory of what is
    installed there; containers are watched from this host. ``source`` is the manifest's file.
    """

    manifest: Manifest
    fingerprint: str
    home: Home
    driver: Driver
    guests: Shell | None = None
    bundles: Path = Path("/var/lib/stackmend/.bundles")
    source: Path = Path("stack.toml")

    @property
    def name(self) -> str:
        """The stack's name."""
        return self.manifest.stack.name

    @property
    def vcds(self) -> list[str]:
        """The names of its VCDs."""
        return list(self.manifest.vcd)

    @property
    def seat(self) -> str:
        """The VCD in which the manager runs; empty when it runs on this host."""
        return self.manifest.manager.vcd

    def deployer(self) -> Access:
        """How the manager is reached by who carries out its commands. Raises ``CaError``."""
        return Access(self._endpoint(), self._authority.deployer()) if self.seat else Access(self.home.target)

    def operator(self) -> Access:
        """How the manager is reached by a person. Raises ``CaError``."""
        return Access(self._endpoint(), self._authority.operator()) if self.seat else Access(self.home.target)

    def payloads(self, vcd: str) -> tuple[Payload, ...]:
        """What a guest has to have now, the manager before the agent; blocking. Raises ``CaError``."""
        agent = agent_payload(
            manager=self._endpoint(),
            stack=self.name,
            vcd=vcd,
            agent=self.manifest.agent,
            tls=self._authority.vcd(vcd),
            naming=self.manifest.naming.configuration(),
        )
        return (self.manager_payload(), agent) if vcd == self.seat else (agent,)

    def installer(self, vcd: str) -> Installer | None:
        """What brings programs into a VCD that lacks them; none when its image has them for certain."""
        return None if self.manifest.delivery(vcd) is Delivery.IMAGE else BundleInstaller(self.bundles)

    def manager_payload(self) -> Payload:
        """What the manager's guest has to have for it; blocking. Raises ``CaError``."""
        address, _ = endpoint(self.manifest)
        tls = self._authority.manager([IPv4Address(address)])
        return manager_payload(stack=self.name, listen=self._endpoint(), tls=tls)

    def manager(self) -> Child:
        """The manager on this host, with a certificate that is good for long; blocking. Raises ``CaError``."""
        if self.guests is None:
            return manager(self.home)
        address, _ = endpoint(self.manifest)
        tls = self._authority.manager([IPv4Address(address)])
        return manager(self.home, listen=self._endpoint(), tls=tls)

    def renew(self) -> None:
        """Have certificates that have become old issued anew, where their readers find them. Raises ``CaError``."""
        if self.seat:
            self.deployer()
            self.operator()
        else:
            self.manager()

    @property
    def _authority(self) -> Authority:
        return Authority(self.home.authority, self.name)

    def _endpoint(self) -> str:
        address, port = endpoint(self.manifest)
        return f"{address}:{port}"
