"""The host of VMs: whether and how it can run them, and the network that a stack has of its own."""

import os
import platform
import shutil
from pathlib import Path

from idm.driver import DriverError
from idm.drivers.domain import NetworkSpec, Platform, build_network, choose_platform, process_owner
from idm.drivers.libvirt_connection import OLDEST, Hypervisor, RefusedError
from idm.settings import DomainType, Libvirt

PROCESSOR = Path("/proc/cpuinfo")


class Host:
    """This host, by its hypervisor and its settings."""

    def __init__(self, hypervisor: Hypervisor, settings: Libvirt) -> None:
        self._hypervisor = hypervisor
        self._settings = settings

    def check(self) -> None:
        """Raise :class:`DriverError` unless libvirt answers, is new enough, and can run VMs."""
        version = self._hypervisor.version()
        if version < OLDEST:
            here, first = (".".join(map(str, number)) for number in (version, OLDEST))
            raise DriverError(f"libvirt {here} is too old: install {first} or later")
        if shutil.which("qemu-img") is None:
            raise DriverError("qemu-img is not installed: apt-get install qemu-utils")
        self.platform()

    def platform(self) -> Platform:
        """What VMs are made for here."""
        settings = self._settings
        wanted = "" if settings.domain_type is DomainType.AUTO else settings.domain_type.value
        capabilities = self._hypervisor.capabilities()
        try:
            domain_type, arch = choose_platform(capabilities, wanted=wanted, virtualises=_virtualises())
        except LookupError as e:
            raise DriverError(
                f"this host cannot run VMs of type {wanted or 'kvm or qemu'}, it has {e}: "
                "see virt-host-validate, and [libvirt] domain_type"
            ) from e
        return Platform(domain_type, arch, settings.cpu, settings.disk_cache, settings.translations_mib)

    def hand_over(self, path: Path) -> None:
        """Let VMs' processes read a private file, also where libvirt does not see to that."""
        owner = process_owner(self._hypervisor.capabilities(), domain_type=self.platform().domain_type)
        if owner is not None:
            os.chown(path, *owner)

    def prepare_network(self, made: NetworkSpec | None, *, name: str) -> None:
        """Bring up the network that is to be made, else the one of that name, which has to be there."""
        name = made.name if made else name
        if not name:
            return
        there = self._hypervisor.network(name)
        if made is None and there is None:
            raise DriverError(f'libvirt has no network "{name}": see virsh net-list --all')
        if made is not None and there is not None and there[0] != str(made.uuid):
            raise DriverError(f'there is a network "{name}" of something else: rename the stack')
        try:
            if there is None and made is not None:
                self._hypervisor.start_network(name, xml=build_network(made))
            elif there is not None and not there[1]:
                self._hypervisor.start_network(name)
        except RefusedError as e:
            advice = "choose another network.subnet in the manifest"
            raise DriverError(f'network "{name}" cannot be started: {e}: {advice}') from e

    def remove_network(self, made: NetworkSpec | None) -> None:
        """Remove the network that was made; harmless when absent."""
        there = self._hypervisor.network(made.name) if made is not None else None
        if made is not None and there is not None and there[0] == str(made.uuid):
            self._hypervisor.remove_network(made.name)


def _virtualises() -> bool:
    """Whether the processor can; on x86 its flags tell, elsewhere /dev/kvm alone does."""
    if platform.machine() != "x86_64":
        return True
    flags = PROCESSOR.read_text().partition("\nflags")[2].partition("\n")[0].split()
    # Some hypervisors have a /dev/kvm without it, which runs only guests that were made for them.
    return bool({"vmx", "svm"} & set(flags))
