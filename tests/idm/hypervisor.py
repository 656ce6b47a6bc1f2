"""``idm`` on libvirt's own test hypervisor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
from click.testing import CliRunner, Result

from idm.cli import main

URI = "test:///default"
# Addresses on this hypervisor follow from the number of domains that were ever started in this process.
NETWORK = """
<network><name>wide</name><bridge name='wide0'/><ip address='198.18.0.1' netmask='255.255.0.0'>
<dhcp><range start='198.18.0.2' end='198.18.255.254'/></dhcp></ip></network>
"""
DOMAIN = """
<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os>
<devices><interface type='network'><mac address='52:54:00:00:00:0{number}'/><source network='wide'/></interface>
{channel}</devices></domain>
"""
CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
UUIDS = {f"proj_{name}": f"00000000-0000-0000-0000-00000000000{n}" for n, name in enumerate(("a", "b"), 1)}


@contextmanager
def two_domains() -> Iterator[None]:
    """They run on it, one with a channel to a guest agent; this process alone sees them."""
    connection = libvirt.open(URI)
    network = connection.networkCreateXML(NETWORK)
    domains = [
        connection.createXML(DOMAIN.format(name=name, uuid=uuid, number=number, channel=channel))
        for (number, (name, uuid)), channel in zip(enumerate(UUIDS.items(), 1), (CHANNEL, ""), strict=True)
    ]
    yield
    for domain in domains:
        domain.destroy()
    network.destroy()
    connection.close()


class Command:
    """``idm`` with that hypervisor, on the manifest of a project."""

    def __init__(self, directory: Path) -> None:
        self.manifest = directory / "project" / "stack.toml"
        self.manifest.parent.mkdir()
        self._settings = directory / "idm.toml"
        self._settings.write_text(
            f'[state]\ndirectory = "{directory}/state"\nrun = "{directory}/run"\n[libvirt]\nuri = "{URI}"\n'
        )

    def __call__(self, *arguments: str) -> Result:
        options = ["--file", str(self.manifest), "--config", str(self._settings)]
        return CliRunner().invoke(main, [*options, *arguments])
