"""A VM's first configuration for cloud-init: a disk that its NoCloud data source takes for its own.

It brings the host name, a static address, the stack's names, the agent's payload, and bundles of the agent for an image
that lacks it. The payload is an archive on the disk, unpacked by the script that a guest agent would run, because
everybody could read for a moment what cloud-init's own ``write_files`` writes.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network
from pathlib import Path

from pycdlib import PyCdlib
from pycdlib.pycdlibexception import PyCdlibException

from idm.delivery import install, script
from idm.delivery.bundle import Bundle, available
from idm.delivery.contents import Role
from idm.delivery.payload import PRIVATE, Payload
from idm.drivers.vm_plan import mac
from idm.errors import DeployError
from idm.manifest import Delivery, Manifest, Vcd

CARD = "eth0"
MOUNT = "/run/stackmend-seed"


@dataclass(frozen=True)
class Wiring:
    """The network card that is configured, by its hardware address; ``hosts`` are the names known to the guest.

    Without ``gateway`` there is no way out of the subnet, without ``nameserver`` there are only these names.
    """

    mac: str
    address: IPv4Interface | IPv6Interface
    hosts: Mapping[str, str]
    gateway: str = ""
    nameserver: str = ""


@dataclass(frozen=True)
class Seed:
    """What one VM begins with. ``instance`` differs for machines that are to be configured anew."""

    instance: str
    host: str
    wiring: Wiring
    payloads: Sequence[Payload]
    bundles: Sequence[Bundle] = ()


def write(seed: Seed, path: Path) -> None:
    """Write the disk, which its owner alone may read: it holds a private key. Raises ``DeployError``."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, PRIVATE), "wb") as file:
            _master(seed).write_fp(file)
        fresh.rename(path)
    except (OSError, PyCdlibException) as e:
        raise DeployError(f"{path} cannot be written, {e}: look at the disk space") from e
    finally:
        fresh.unlink(missing_ok=True)


def sow(
    manifest: Manifest, vcd: Vcd, path: Path, *, payloads: Callable[[str], tuple[Payload, ...]], bundles: Path
) -> bool:
    """Write the seed of a VM that is made from an image; returns whether it is to have one. Raises ``DeployError``."""
    way = manifest.delivery(vcd.name)
    if way is Delivery.GUEST_AGENT:
        return False
    given = payloads(vcd.name)
    roles = [] if way is Delivery.IMAGE else [Role(payload.program.rpartition("/")[2]) for payload in given]
    lacking = [bundle for role in roles for bundle in available(bundles, role).values()]
    instance = f"{manifest.stack.name}-{vcd.name}-{secrets.token_hex(4)}"
    write(Seed(instance, vcd.name, wire(manifest, vcd), given, lacking), path)
    return True


def wire(manifest: Manifest, vcd: Vcd) -> Wiring:
    """How a VM is connected. A network that is made for the stack has no way out, others may."""
    network = manifest.network
    subnet = ip_network(network.subnet)
    host = str(subnet.network_address + 1)
    return Wiring(
        mac=mac(vcd.address),
        address=ip_interface(f"{vcd.address}/{subnet.prefixlen}"),
        hosts={one.name: one.address for one in manifest.vcd.values()} | network.hosts,
        gateway=host if network.bridge or network.libvirt else "",
        nameserver="" if network.bridge else host,
    )


def documents(seed: Seed) -> dict[str, bytes]:
    """The files of the disk by their names, but for the bundles. YAML is understood, so JSON is."""
    user_data = b"#cloud-config\n" + _json(_cloud_config(seed))
    return {
        "meta-data": _json({"instance-id": seed.instance, "local-hostname": seed.host}),
        "network-config": _json(_network(seed.wiring)),
        "user-data": user_data,
        **{_parcel(payload): script.parcel(payload) for payload in seed.payloads},
    }


def _master(seed: Seed) -> PyCdlib:
    image = PyCdlib()
    image.new(interchange_level=3, vol_ident=install.LABEL, rock_ridge="1.09")
    files = documents(seed) | {bundle.path.name: bundle.path.read_bytes() for bundle in seed.bundles}
    for number, (name, content) in enumerate(files.items()):
        # Only the Rock Ridge name is ever looked at.
        image.add_fp(BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, file_mode=0o100400)
    return image


def _cloud_config(seed: Seed) -> dict[str, object]:
    names = "".join(f"{address} {name}\n" for name, address in seed.wiring.hosts.items())
    mount = f"mkdir -p -m 0700 {MOUNT} && mount -o ro LABEL={install.LABEL} {MOUNT}"
    roles = sorted({bundle.role for bundle in seed.bundles}, key=lambda role: role.value)
    return {
        "hostname": seed.host,
        "preserve_hostname": False,
        "manage_etc_hosts": False,
        "write_files": [{"path": "/etc/hosts", "append": True, "content": names}],
        "runcmd": [
            *(install.command(role, [one for one in seed.bundles if one.role is role]) for role in roles),
            ["sh", "-c", mount],
            *(_unpack(payload) for payload in seed.payloads),
            ["umount", MOUNT],
        ],
    }


def _unpack(payload: Payload) -> list[str]:
    command = f'exec sh -c "$1" < {MOUNT}/{_parcel(payload)}'
    return ["sh", "-c", command, "install", script.install(payload)]


def _parcel(payload: Payload) -> str:
    return f"{payload.unit}.tar"


def _network(wiring: Wiring) -> dict[str, object]:
    card: dict[str, object] = {
        "match": {"macaddress": wiring.mac},
        # Some renderers match by the name, too.
        "set-name": CARD,
        "dhcp4": False,
        "addresses": [str(wiring.address)],
    }
    if wiring.gateway:
        card["routes"] = [{"to": "0.0.0.0/0", "via": wiring.gateway}]
    if wiring.nameserver:
        card["nameservers"] = {"addresses": [wiring.nameserver]}
    return {"version": 2, "ethernets": {CARD: card}}


def _json(document: object) -> bytes:
    return json.dumps(document).encode()
