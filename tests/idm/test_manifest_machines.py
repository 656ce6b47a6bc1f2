"""The manifest of VMs: how machines are described, and what fits none."""

from pathlib import Path

import pytest

from idm.manifest import ManifestError, SnapshotKind, fingerprint, load
from tests.idm.test_manifest import written

MACHINES = """
[stack]
name = "shop"
driver = "libvirt"
[network]
subnet = "198.18.10.0/24"
bridge = "br0"
[vcd.db]
image = "/images/debian.qcow2"
[vcd.db.machine]
memory_mib = 512
kernel = "/images/vmlinuz"
cmdline = "console=ttyS0"
[vcd.old]
domain = "db01"
[rollback]
snapshot = "offline"
"""


def test_machines_are_described(tmp_path: Path) -> None:
    """A VM is made from an image or is a domain that exists; how it is saved and watched makes no other stack."""
    manifest = load(written(tmp_path, MACHINES))
    assert manifest.vcd["db"].machine.memory_mib == 512
    assert manifest.vcd["old"].domain == "db01"
    assert manifest.rollback.snapshot is SnapshotKind.OFFLINE
    for old, new in (
        ('"offline"', '"memory"'),
        ("[rollback]", '[manager]\nvcd = "db"\n[rollback]'),
        ('domain = "db01"', 'domain = "db01"\ndelivery = "image"'),
    ):
        other = load(written(tmp_path, MACHINES.replace(old, new)))
        assert fingerprint(other) == fingerprint(manifest)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'domain = "db01"',
            "",
            "vcd.old: a VM is made from an image or is an existing domain: write one of both",
        ),
        (
            'domain = "db01"',
            'domain = "db01"\nimage = "/i"',
            "vcd.old: a VM is made from an image or is an existing domain: write one of both",
        ),
        (
            'domain = "db01"',
            'domain = "db01"\nmachine = { vcpus = 2 }',
            "vcd.old.machine: an existing domain has its hardware: leave this out",
        ),
        (
            'domain = "db01"',
            'domain = "db01"\ncommand = ["/bin/x"]',
            "vcd.old.command: a VM's image says what runs in it: leave this out",
        ),
        (
            '"/images/debian.qcow2"',
            '"debian.qcow2"',
            'vcd.db.image: "debian.qcow2" is no absolute path: write one that begins with /',
        ),
        (
            'kernel = "/images/vmlinuz"\n',
            "",
            "vcd.db.machine.kernel: missing: initrd and cmdline need it",
        ),
        (
            'bridge = "br0"',
            'bridge = "br0"\nlibvirt = "default"',
            "network.bridge: there is network.libvirt, too: leave one of them out",
        ),
        ("512", "1", "vcd.db.machine.memory_mib: expected mebibytes, from 16 to 16777216, got 1"),
        (
            "[rollback]",
            '[manager]\nlisten = "198.18.10.1"\n[rollback]',
            'manager.listen: expected ADDRESS:PORT such as "198.18.10.1:7443", got "198.18.10.1"',
        ),
        (
            "[rollback]",
            '[manager]\nlisten = "198.18.10.1:70000"\n[rollback]',
            "manager.listen: 70000 is no port: choose one from 1 to 65535",
        ),
        (
            "[rollback]",
            '[manager]\nvcd = "dm"\n[rollback]',
            'manager.vcd: there is no VCD "dm": choose from db, old',
        ),
        (
            '"offline"',
            '"disk"',
            'rollback.snapshot: expected one of "memory", "offline", "overlay", got "disk"',
        ),
    ],
)
def test_bad_machines_are_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    """What fits no VM is told with its place and what to write."""
    path = written(tmp_path, MACHINES.replace(old, new, 1))
    with pytest.raises(ManifestError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {message}"
