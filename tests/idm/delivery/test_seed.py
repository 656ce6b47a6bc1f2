"""The disk of a first boot, as another reader of ISO 9660 finds it."""

import json
import subprocess
import tarfile
from io import BytesIO
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from pycdlib import PyCdlib

from idm.delivery.bundle import named
from idm.delivery.contents import Role
from idm.delivery.payload import PRIVATE, PUBLIC, File, Payload
from idm.delivery.seed import Seed, Wiring, write
from idm.errors import DeployError

SECRET = File("/etc/stackmend/tls/agent.pem", b"the key")
AGENT = Payload(unit="a.service", unit_file=b"[Unit]\n", program="/usr/local/bin/dma", files=(SECRET,))
WIRING = Wiring(
    mac="52:54:c6:12:00:0b",
    address=IPv4Interface("198.18.0.11/24"),
    hosts={"web": "198.18.0.11", "db": "198.18.0.12"},
    gateway="198.18.0.1",
)


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    """A seed with a bundle."""
    bundle = named(tmp_path, Role.AGENT, "cpython-311-x86_64-linux-gnu", "abc")
    bundle.path.write_bytes(b"a bundle")
    return Seed(instance="shop-web-1", host="web", wiring=WIRING, payloads=(AGENT,), bundles=(bundle,))


def read(path: Path) -> dict[str, bytes]:
    """The files of the disk."""
    image = PyCdlib()
    image.open(str(path))
    files = {}
    for entry in image.list_children(rr_path="/"):
        if entry.is_file():
            content = BytesIO()
            name = entry.rock_ridge.name().decode()
            image.get_file_from_iso_fp(content, rr_path=f"/{name}")
            files[name] = content.getvalue()
    image.close()
    return files


def test_cloud_init_finds_what_it_looks_for(seed: Seed, tmp_path: Path) -> None:
    """The label is the one that it looks for, and name, address and the stack's names are in its own documents."""
    path = tmp_path / "web.seed"
    write(seed, path)
    label = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "LABEL", path], capture_output=True, text=True, check=True
    )
    assert label.stdout == "CIDATA\n"
    files = read(path)
    assert json.loads(files["meta-data"]) == {"instance-id": "shop-web-1", "local-hostname": "web"}
    card = json.loads(files["network-config"])["ethernets"]["eth0"]
    assert (card["match"], card["addresses"]) == ({"macaddress": WIRING.mac}, ["198.18.0.11/24"])
    assert card["routes"] == [{"to": "0.0.0.0/0", "via": "198.18.0.1"}]
    head, _, config = files["user-data"].partition(b"\n")
    assert head == b"#cloud-config"
    assert json.loads(config)["write_files"][0]["content"] == "198.18.0.11 web\n198.18.0.12 db\n"
    assert files[seed.bundles[0].path.name] == b"a bundle"


def test_only_its_owner_reads_the_key(seed: Seed, tmp_path: Path) -> None:
    """The disk is private from its first byte on, and so is the file in the guest; cloud-init itself never has it."""
    path = tmp_path / "web.seed"
    path.write_bytes(b"an older one")
    write(seed, path)
    assert path.stat().st_mode & 0o777 == PRIVATE
    files = read(path)
    with tarfile.open(fileobj=BytesIO(files["a.service.tar"])) as archive:
        modes = {entry.name.removesuffix(".stackmend-new"): entry.mode for entry in archive}
    assert modes == {SECRET.path[1:]: PRIVATE, "etc/systemd/system/a.service": PUBLIC}
    assert SECRET.content not in files["user-data"]


def test_a_disk_that_cannot_be_written_is_told(seed: Seed, tmp_path: Path) -> None:
    """One line, and nothing is left."""
    with pytest.raises(DeployError, match=r"nowhere/web.seed cannot be written, .*: look at the disk space"):
        write(seed, tmp_path / "nowhere" / "web.seed")
