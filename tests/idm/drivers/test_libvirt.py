"""The libvirt driver against libvirt's own test hypervisor, which has domains but runs nothing."""

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import Queue

import libvirt
import pytest

from idm import manifest, settings
from idm.driver import DriverError, Power
from idm.drivers.libvirt import LibvirtDriver
from idm.drivers.libvirt_connection import Event, Events, Turn
from idm.settings import DomainType, Libvirt
from tests.idm.drivers.tiny import STACK, URI

ADOPTING = """
[stack]
name = "{stack}"
driver = "libvirt"
[network]
subnet = "198.18.66.0/24"
libvirt = "default"
[vcd.old]
domain = "test"
"""


def test_lifecycle(driver: LibvirtDriver, hypervisor: libvirt.virConnect) -> None:
    """Every start makes another incarnation, a pause does not; what is destroyed is gone."""
    first = driver.instances()["one"]
    assert first.power is Power.RUNNING
    hypervisor.lookupByName("tiny-one").suspend()
    assert driver.instances()["one"].power is Power.PAUSED
    driver.start("one")
    assert driver.instances()["one"] == first
    driver.stop("one", grace_s=5)
    assert driver.instances()["one"].power is Power.STOPPED
    driver.start("one")
    assert driver.instances()["one"].incarnation not in (first.incarnation, "")
    driver.destroy("one")
    driver.destroy("one")
    assert set(driver.instances()) == {"two"}


def test_what_somebody_does_with_a_domain_is_told_apart_from_failures(
    driver: LibvirtDriver, hypervisor: libvirt.virConnect
) -> None:
    """One that was saved or taken back by hand is held until it runs; one that was paused or killed by hand is not."""
    domain = hypervisor.lookupByName("tiny-one")

    def held() -> tuple[Power, str]:
        found = driver.instances()["one"]
        return found.power, found.held

    domain.suspend()
    assert held() == (Power.PAUSED, "")
    domain.resume()
    domain.managedSave()
    assert held() == (Power.STOPPED, "is saved and off: virsh start it")
    domain.create()
    assert held() == (Power.RUNNING, "")
    running = domain.snapshotCreateXML("<domainsnapshot><name>running</name></domainsnapshot>")
    domain.destroy()
    assert held() == (Power.STOPPED, "")
    off = domain.snapshotCreateXML("<domainsnapshot><name>off</name></domainsnapshot>")
    domain.revertToSnapshot(running, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED)
    assert held() == (Power.PAUSED, "was taken back to a snapshot and stands still: virsh resume it")
    assert driver.instances()["one"].reverted
    domain.resume()
    assert held() == (Power.RUNNING, "")
    assert driver.instances()["one"].reverted
    domain.revertToSnapshot(off)
    assert held() == (Power.STOPPED, "was taken back to a snapshot and is off: virsh start it")
    domain.create()
    assert held() == (Power.RUNNING, "")
    assert driver.instances()["one"].reverted
    for snapshot in (running, off):
        snapshot.delete()


def test_a_guest_that_reboots_is_another_incarnation(driver: LibvirtDriver) -> None:
    """The process is the same, so the driver marks the run when it hears of the reboot."""
    before = driver.instances()["one"].incarnation
    assert set(driver._heed(Event("tiny-one", Turn.REBOOT))) == {"one"}
    assert driver.instances()["one"].incarnation.startswith(f"{before}.")


def test_only_labelled_domains_are_touched(
    opened: Callable[..., LibvirtDriver], hypervisor: libvirt.virConnect, tmp_path: Path
) -> None:
    """A domain that happens to have a VCD's name is refused, and still there after remove."""
    hypervisor.defineXML(
        "<domain type='test'><name>tiny-one</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    )
    try:
        driver = opened()
        stack = manifest.load(tmp_path / "stack.toml")
        assert driver.instances() == {}
        with pytest.raises(DriverError, match=r'^there is a domain "tiny-one" already: idm down removes'):
            driver.define(stack.vcd["one"])
        with pytest.raises(DriverError, match=r'^one has no domain "tiny-one" of its own: idm up makes it$'):
            driver.start("one")
        driver.destroy("one")
        driver.remove()
        assert hypervisor.lookupByName("tiny-one").isPersistent()
    finally:
        hypervisor.lookupByName("tiny-one").undefine()


def test_an_adopted_domain_is_left_as_it_was(
    opened: Callable[..., LibvirtDriver], hypervisor: libvirt.virConnect, tmp_path: Path
) -> None:
    """An existing domain joins the stack under its own name, no other stack can have it, and it runs on at the end."""
    before = hypervisor.lookupByName("test").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    driver = opened(ADOPTING, stack="first")
    driver.define(manifest.load(tmp_path / "stack.toml").vcd["old"])
    assert driver.instances()["old"].power is Power.RUNNING
    with pytest.raises(
        DriverError, match=r'^old: domain "test" is old of stack first: idm down that one first$'
    ):
        opened(ADOPTING, stack="second").prepare()
    driver.stop("old", grace_s=5)
    driver.remove()
    domain = hypervisor.lookupByName("test")
    assert domain.isActive()
    # Libvirt keeps the place where metadata was.
    after = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace("  <metadata/>\n", "")
    assert after == before.replace("  <metadata/>\n", "")


def test_an_adopted_domain_stays_adopted(
    opened: Callable[..., LibvirtDriver], hypervisor: libvirt.virConnect, tmp_path: Path
) -> None:
    """Taken back to before the stack, or made anew, it knows nothing of the stack, to which it belongs all the same."""
    domain = hypervisor.lookupByName("test")
    definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    snapshot = domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    driver = opened(ADOPTING, stack="first")
    driver.define(manifest.load(tmp_path / "stack.toml").vcd["old"])
    told: Queue[str] = Queue(maxsize=100)

    def listen() -> None:
        for vcd in driver.events():
            told.put(vcd)

    def wait_until_it_runs(*, reverted: bool) -> str:
        while (
            not (found := driver.instances().get("old"))
            or not found.incarnation
            or found.reverted is not reverted
        ):
            assert told.get(timeout=10) == "old"
        return found.incarnation

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert told.get(timeout=10) == "old"
    domain.revertToSnapshot(snapshot)
    first = wait_until_it_runs(reverted=True)
    snapshot.delete()
    domain.destroy()
    domain.undefine()
    hypervisor.defineXML(definition).create()
    assert wait_until_it_runs(reverted=False) != first
    driver.close()
    listener.join(timeout=10)
    assert not listener.is_alive()


def test_a_snapshot_takes_running_vcds(driver: LibvirtDriver) -> None:
    """What does not run is not saved as good, and a tag is given once."""
    driver.snapshot(["one"], tag="first", golden="abc")
    with pytest.raises(DriverError, match=r'^one has a snapshot "first" already: choose another tag$'):
        driver.snapshot(["one", "two"], tag="first", golden="abc")
    driver.stop("two", grace_s=5)
    with pytest.raises(
        DriverError, match=r"^two is stopped, and a snapshot takes running VCDs: start it first$"
    ):
        driver.snapshot(["one", "two"], tag="second", golden="abc")


def test_a_failed_snapshot_is_not_kept(driver: LibvirtDriver, tmp_path: Path) -> None:
    """When one VM cannot be saved no snapshot stays of any, disks are as before, and all run on."""
    (tmp_path / "vm/tiny/two.qcow2").unlink()
    with pytest.raises(
        DriverError, match=r"^two cannot be saved, No such file or directory, .*two.qcow2: look"
    ):
        driver.snapshot(["one", "two"], tag="first", golden="abc")
    assert driver.snapshots() == []
    assert {instance.power for instance in driver.instances().values()} == {Power.RUNNING}


def test_kinds_are_not_mixed(driver: LibvirtDriver, opened: Callable[..., LibvirtDriver]) -> None:
    """With snapshots of one kind there, neither saving nor going back by another one is done."""
    driver.snapshot(["one"], tag="first", golden="abc")
    other = opened(STACK.replace('"overlay"', '"memory"'))
    for call in (
        lambda: other.snapshot(["one"], tag="second", golden="abc"),
        lambda: other.restore("one", tag="first"),
    ):
        with pytest.raises(
            DriverError, match=r'^one has snapshot "first" of kind overlay, and kinds are not mixed: '
        ):
            call()


def test_remove_leaves_nothing(driver: LibvirtDriver, hypervisor: libvirt.virConnect, tmp_path: Path) -> None:
    """Domains, disks, layers and network of the stack go; other people's stay, and so does the image."""
    driver.snapshot(["one"], tag="first", golden="abc")
    driver.remove()
    driver.remove()
    assert [domain.name() for domain in hypervisor.listAllDomains()] == ["test"]
    assert [network.name() for network in hypervisor.listAllNetworks()] == ["default"]
    assert sorted(path.name for path in (tmp_path / "vm").iterdir()) == []
    assert (tmp_path / "base.qcow2").exists()


def test_events_tell_who_changed(driver: LibvirtDriver, hypervisor: libvirt.virConnect) -> None:
    """Every VCD is told at first, then the one that changed; close ends it."""
    told: Queue[str] = Queue(maxsize=100)

    def listen() -> None:
        for vcd in driver.events():
            told.put(vcd)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert [told.get(timeout=10), told.get(timeout=10)] == ["one", "two"]
    hypervisor.lookupByName("test").suspend()
    hypervisor.lookupByName("test").resume()
    hypervisor.lookupByName("tiny-two").suspend()
    assert told.get(timeout=10) == "two"
    driver.remove()
    driver.close()
    listener.join(timeout=10)
    assert not listener.is_alive()


def test_too_many_events_end_the_subscription() -> None:
    """Rather than to forget some, the driver subscribes again and looks at all."""
    events = Events()
    for _ in range(2000):
        events.put(Event("x", Turn.POWER))
    assert list(events) == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "test:///nowhere.xml",
            r"^libvirt does not answer at test:///nowhere.xml, .*: systemctl start libvirtd, or",
        ),
        (
            "qemu:///system?socket=/nowhere",
            r"^libvirt does not answer at qemu:///system.*: systemctl start libvirtd",
        ),
    ],
)
def test_a_hypervisor_that_is_away_is_told(base: Path, tmp_path: Path, uri: str, message: str) -> None:
    """Every call is one line that says what to do."""
    path = tmp_path / "stack.toml"
    path.write_text(STACK.format(base=base))
    with closing(LibvirtDriver(manifest.load(path), Libvirt(uri=uri))) as driver:
        for call in (driver.check, driver.instances, driver.remove):
            with pytest.raises(DriverError, match=message):
                call()


def test_what_the_host_cannot_do_is_told(base: Path, tmp_path: Path) -> None:
    """A host without the wanted kind of VMs, and an image that is not there, are found before the launch."""
    path = tmp_path / "stack.toml"
    path.write_text(STACK.format(base=base))
    host = Libvirt(uri=URI, directory=str(tmp_path), domain_type=DomainType.KVM)
    with closing(LibvirtDriver(manifest.load(path), host)) as driver:
        with pytest.raises(
            DriverError, match=r"^this host cannot run VMs of type kvm, it has test: see virt-host"
        ):
            driver.check()
        base.unlink()
        with pytest.raises(DriverError, match=r"base.qcow2': No such file or directory: bring it back, or"):
            driver.prepare()


def test_a_disk_that_cannot_be_saved_is_told(opened: Callable[..., LibvirtDriver]) -> None:
    """An adopted domain with a raw disk is refused at the beginning, and its own disks are never layered."""
    with pytest.raises(
        DriverError, match=r"^old has a raw disk /guest/diskimage1, which cannot be saved: qemu-img convert"
    ):
        opened(ADOPTING, stack="first").prepare()
    overlay = ADOPTING + '[rollback]\nsnapshot = "overlay"\n'
    with pytest.raises(
        DriverError, match=r"^old is an existing domain, whose disks are left as they are: set"
    ):
        opened(overlay, stack="first").prepare()
    missing = ADOPTING.replace('"test"', '"nobody"')
    with pytest.raises(DriverError, match=r'^old: there is no domain "nobody": see virsh list --all$'):
        opened(missing, stack="first").prepare()


def test_the_settings_reach_the_driver(tmp_path: Path) -> None:
    """What the host's configuration says about libvirt is read."""
    path = tmp_path / "idm.toml"
    path.write_text('[libvirt]\nuri = "test:///default"\ndomain_type = "qemu"\ncpu = "qemu64"\n')
    assert settings.load(path).libvirt == Libvirt(uri=URI, domain_type=DomainType.QEMU, cpu="qemu64")
