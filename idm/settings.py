"""This host's configuration: where state is kept, and how the hypervisor or container engine is reached."""

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from idm.document import DocumentError, read

DEFAULT = Path("/etc/stackmend/idm.toml")
VARIABLE = "STACKMEND_CONFIG"

AbsolutePath = Annotated[str, Meta(pattern="^/", description="a path that begins with /")]
Ulimit = Annotated[
    str, Meta(pattern=r"^[a-z]+=[0-9]+(:[0-9]+)?$", description='limits such as "nofile=1024:4096"')
]


class SettingsError(Exception):
    """The configuration cannot be used; the message names the place and what to write there."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """``directory`` outlives the stacks; ``run`` holds sockets and locks, and may be emptied at every boot."""

    directory: AbsolutePath = "/var/lib/stackmend"
    run: AbsolutePath = "/run/stackmend"


class Podman(msgspec.Struct, frozen=True, kw_only=True):
    """``ulimits`` are set on every container; none leaves podman's own defaults."""

    socket: AbsolutePath = "/run/podman/podman.sock"
    ulimits: tuple[Ulimit, ...] = ()


class DomainType(Enum):
    """Whether VMs run on the processor's virtualisation or are emulated; ``auto`` is the best that the host has."""

    AUTO = "auto"
    KVM = "kvm"
    QEMU = "qemu"


class Libvirt(msgspec.Struct, frozen=True, kw_only=True):
    """The hypervisor, as libvirt names it: ``qemu:///system``, with ``?socket=`` for a daemon of one's own.

    ``directory`` holds the disks that are made; QEMU's user must get there. Without a ``cpu`` model or a ``disk_cache``
    mode the hypervisor's own choice is taken. ``translations_mib`` bounds the code cache of emulated processors.
    """

    uri: Annotated[str, Meta(pattern=r"^[a-z+]+://", description="a libvirt URI such as qemu:///system")] = (
        "qemu:///system"
    )
    directory: AbsolutePath = "/var/lib/libvirt/stackmend"
    domain_type: DomainType = DomainType.AUTO
    cpu: str = ""
    disk_cache: str = ""
    translations_mib: Annotated[int, Meta(ge=0, le=65536, description="mebibytes, from 0 to 65536")] = 0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; every key has a default that suits an ordinary host."""

    state: State = State()
    podman: Podman = Podman()
    libvirt: Libvirt = Libvirt()


def load(path: Path | None) -> Settings:
    """Read ``path``, else the file that STACKMEND_CONFIG names, else the usual place if there is one.

    Raises :class:`SettingsError`.
    """
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None and not DEFAULT.exists():
        return Settings()
    try:
        return read(named or DEFAULT, Settings)
    except DocumentError as e:
        raise SettingsError(str(e)) from e
