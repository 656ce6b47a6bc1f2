"""Libvirt's documents, as they are built and read."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from idm.drivers.domain import (
    LABELS,
    Disk,
    DomainSpec,
    Label,
    NetworkSpec,
    Nic,
    Platform,
    build_domain,
    build_network,
    build_snapshot,
    choose_platform,
    description_of,
    examine,
    label_element,
    mark_element,
    process_owner,
    read_label,
    read_mark,
    redescribe_snapshot,
)
from idm.manifest import Machine

SPEC = DomainSpec(
    name="shop-db",
    platform=Platform("kvm", "x86_64"),
    machine=Machine(memory_mib=512, vcpus=2),
    nic=Nic("52:54:c6:12:0a:0b", bridge="br0"),
    disk=Path("/vm/db.qcow2"),
    console=Path("/vm/db.console"),
)
LABEL = Label("shop", "db", "abc")
CAPABILITIES = """
<capabilities><host><cpu><arch>x86_64</arch></cpu></host>
<guest><arch name="i686"><domain type="xen"/></arch></guest>
<guest><arch name="x86_64"><domain type="qemu"/><domain type="kvm"/></arch></guest></capabilities>
"""


def test_a_domain_says_what_its_spec_says() -> None:
    """Hardware, disk, network, console and agent channel are there, and the label in a namespace of ours."""
    root = ElementTree.fromstring(build_domain(SPEC, LABEL))
    assert root.get("type") == "kvm"
    assert root.findtext("name") == "shop-db"
    assert (root.findtext("memory"), root.findtext("vcpu")) == ("512", "2")
    assert root.find("os/boot[@dev='hd']") is not None
    assert root.find("os/kernel") is None
    assert root.find("cpu[@mode='host-passthrough']") is not None
    assert root.find("devices/interface/source[@bridge='br0']") is not None
    assert root.find("devices/channel/target[@name='org.qemu.guest_agent.0']") is not None
    assert root.find("devices/video") is None
    label = root.find(f"metadata/{{{LABELS}}}vcd")
    assert label is not None
    assert read_label(ElementTree.tostring(label, encoding="unicode")) == LABEL


def test_what_is_asked_for_is_added() -> None:
    """A kernel, a processor model, a disk cache, a code cache, a seed and a screen appear only then."""
    spec = replace(
        SPEC,
        platform=Platform("qemu", "x86_64", cpu="qemu64", disk_cache="unsafe", translations_mib=64),
        machine=Machine(kernel="/k", initrd="/i", cmdline='a="<b>"', graphics=True),
        nic=Nic("52:54:c6:12:0a:0b", network="stackmend-shop"),
        seed=Path("/vm/db.seed"),
    )
    root = ElementTree.fromstring(build_domain(spec, LABEL))
    assert [root.findtext(f"os/{tag}") for tag in ("kernel", "initrd", "cmdline")] == ["/k", "/i", 'a="<b>"']
    assert root.find("os/boot") is None
    assert root.findtext("cpu/model") == "qemu64"
    assert root.findtext("features/tcg/tb-cache") == "64"
    assert root.find("devices/disk/driver[@cache='unsafe']") is not None
    assert root.find("devices/interface[@type='network']/source[@network='stackmend-shop']") is not None
    facts = examine(build_domain(spec, LABEL))
    assert facts.disks == (Disk("/vm/db.qcow2", "qcow2"),)
    assert facts.console == Path("/vm/db.console")
    assert facts.screen


def test_whom_vms_run_as_is_told() -> None:
    """User and group of the file labels for that type of VM, where libvirt has any."""
    model = "<secmodel><model>{}</model><baselabel type='kvm'>{}</baselabel></secmodel>"
    host = f"<host>{model.format('selinux', 'a:b:c')}{model.format('dac', '+64055:+109')}</host>"
    text = f"<capabilities>{host}</capabilities>"
    assert process_owner(text, domain_type="kvm") == (64055, 109)
    assert process_owner(text, domain_type="qemu") is None
    assert process_owner("<capabilities><host/></capabilities>", domain_type="kvm") is None


@pytest.mark.parametrize(
    ("os", "devices", "disks", "flash", "console"),
    [
        ("<loader type='pflash'>/f</loader>", "", (), True, None),
        ("<loader type='rom'>/f</loader>", "", (), False, None),
        ("", "<disk><source file='/d'/></disk>", (Disk("/d", "raw"),), False, None),
        ("", "<disk><driver type='qcow2'/><source dev='/d'/></disk>", (Disk("/d", "qcow2"),), False, None),
        ("", "<disk device='cdrom'/><disk><readonly/></disk><disk snapshot='no'/>", (), False, None),
        ("", "<serial type='pty'><log file='/l'/></serial>", (), False, Path("/l")),
        ("", "<serial type='pty'><source path='/dev/pts/1'/></serial>", (), False, None),
    ],
)
def test_facts_are_read(
    os: str, devices: str, disks: tuple[Disk, ...], flash: bool, console: Path | None
) -> None:
    """Firmware, writable disks and a console's file are found in other people's domains, too."""
    facts = examine(f"<domain><os>{os}</os><devices>{devices}</devices></domain>")
    assert (facts.disks, facts.flash, facts.console) == (disks, flash, console)


def test_firmware_may_be_chosen_by_libvirt() -> None:
    """A domain for which libvirt chooses the EFI firmware has flash as well."""
    assert examine("<domain><os firmware='efi'/><devices/></domain>").flash


def test_labels_and_marks_survive() -> None:
    """What is written into a domain's metadata is what is read from it."""
    for label in (LABEL, Label("shop", "db", ran=True)):
        assert read_label(label_element(label)) == label
    assert read_mark(mark_element(".1f")) == ".1f"
    assert read_mark("") == ""


def test_a_snapshot_is_described_anew() -> None:
    """Description and state are replaced; what libvirt has written besides stays."""
    text = build_snapshot("good", '{"a": "<b>"}').replace("</domainsnapshot>", "<parent/></domainsnapshot>")
    again = redescribe_snapshot(text, "other", state="running")
    assert description_of(text) == '{"a": "<b>"}'
    assert description_of(again) == "other"
    root = ElementTree.fromstring(again)
    assert (root.findtext("state"), root.findtext("name")) == ("running", "good")
    assert root.find("parent") is not None


def test_a_network_knows_its_machines() -> None:
    """Every VM has its address by DHCP and its name by DNS; the UUID tells the maker."""
    vms = {"52:54:c6:12:0a:0b": ("db", "198.18.10.11")}
    spec = NetworkSpec("stackmend-shop", "198.18.10.1", "255.255.255.0", vms, {"pay.example": "198.18.67.5"})
    root = ElementTree.fromstring(build_network(spec))
    assert root.find("forward") is None
    assert root.find("ip/dhcp/host[@ip='198.18.10.11'][@mac='52:54:c6:12:0a:0b']") is not None
    assert [host.findtext("hostname") for host in root.findall("dns/host")] == ["db", "pay.example"]
    assert root.findtext("uuid") == str(spec.uuid) != str(replace(spec, name="other").uuid)


def test_the_platform_is_the_best_of_the_host() -> None:
    """kvm comes first where it works, another type by wish; what there is not is told with what there is."""
    assert choose_platform(CAPABILITIES, wanted="", virtualises=True) == ("kvm", "x86_64")
    assert choose_platform(CAPABILITIES, wanted="", virtualises=False) == ("qemu", "x86_64")
    assert choose_platform(CAPABILITIES, wanted="kvm", virtualises=False) == ("kvm", "x86_64")
    assert choose_platform(CAPABILITIES, wanted="qemu", virtualises=True) == ("qemu", "x86_64")
    with pytest.raises(LookupError, match=r"^kvm, qemu$"):
        choose_platform(CAPABILITIES, wanted="xen", virtualises=True)
