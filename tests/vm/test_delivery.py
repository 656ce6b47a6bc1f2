"""The agent's ways into guests that lack it: a seed disk for cloud-init, and a bundle by the guest agent."""

import os
import stat
import time
from collections.abc import Iterator

import pytest

from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_agent import GuestAgent
from tests.lab.vm_guest import KERNEL_ARGUMENTS, Guest
from tests.lab.vm_image import CLOUD
from tests.vm.deployed import Idm

pytestmark = pytest.mark.vm

ANSWER_S = 60
PLAIN, PLAIN_ADDRESS = "seed-plain", "198.18.0.92"
STACK = """
[stack]
name = "seed"
driver = "libvirt"

[network]
subnet = "198.18.0.0/24"
bridge = "br0"
hosts = {{ "pay.example" = "198.18.7.7" }}

[vcd.cloud]
image = "{disk}"
address = "198.18.0.91"
delivery = "cloud-init"

[vcd.cloud.machine]
memory_mib = 256
kernel = "{kernel}"
initrd = "{initramfs}"
cmdline = "{arguments}"

[vcd.plain]
domain = "{plain}"
address = "{plain_address}"
"""


@pytest.fixture(scope="module")
def plain(vm_lab: LibvirtLab) -> Iterator[Guest]:
    """A guest that runs already, with a guest agent and Python and nothing of the product."""
    guest = vm_lab.guest(PLAIN, PLAIN_ADDRESS, flavour=CLOUD)
    yield guest
    guest.end()


@pytest.fixture(scope="module")
def idm(vm_lab: LibvirtLab, plain: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idm]:
    """For a stack of that guest, and of one that is made from an image; it is down at the end."""
    manifest = tmp_path_factory.mktemp("seed") / "stack.toml"
    text = STACK.format(
        **vm_lab.image(CLOUD)._asdict(),
        arguments=KERNEL_ARGUMENTS,
        plain=plain.name,
        plain_address=plain.address,
    )
    manifest.write_text(text)
    idm = Idm(vm_lab, manifest, stack="seed")
    yield idm
    idm("down")


@pytest.fixture(scope="module")
def up(idm: Idm) -> str:
    """What bringing it up has said."""
    return idm("up")


@pytest.fixture
def cloud(vm_lab: LibvirtLab, up: str) -> GuestAgent:
    """Runs commands in the guest that was made."""
    assert up
    return GuestAgent(vm_lab.connection.lookupByName("seed-cloud"))


def test_agents_get_into_guests_that_lack_them(up: str) -> None:
    """Both are heard by the manager, so that both report by TLS."""
    assert "2 VCDs are started, 2 agents watch them" in up


def test_a_first_boot_is_configured(cloud: GuestAgent) -> None:
    """The guest has its name and address, and knows the stack's names."""
    assert cloud.run("hostname").stdout == "cloud\n"
    assert "198.18.0.91/24" in cloud.run("ip", "-brief", "address").stdout
    for name, address in {
        "plain": PLAIN_ADDRESS,
        "cloud": "198.18.0.91",
        "pay.example": "198.18.7.7",
    }.items():
        assert cloud.run("getent", "hosts", name).stdout.split()[0] == address


def test_the_key_is_private(cloud: GuestAgent, plain: Guest, vm_lab: LibvirtLab) -> None:
    """On both sides only root reads it, and nothing that cloud-init keeps holds it."""
    for guest in (cloud, plain):
        said = guest.run("stat", "-c", "%a %U", "/etc/stackmend/tls/agent.pem").stdout
        assert said == "600 root\n"
    # The guest agent logs this very command, which is not to be found by it.
    kept = cloud.run(
        "grep", "-rl", "PRIVATE [K]EY", "/var/lib/cloud", "/var/log", "/run/cloud-init", check=False
    )
    assert kept.stdout == ""
    seed = vm_lab.directory / "vms" / "seed" / "cloud.seed"
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    assert (seed.stat().st_uid, seed.stat().st_gid) == (os.getuid(), os.getgid())


def test_a_guest_with_a_seed_is_saved_and_taken_back(vm_lab: LibvirtLab, cloud: GuestAgent) -> None:
    """The disk that cannot be written to is no part of a snapshot with memory."""
    domain = vm_lab.connection.lookupByName("seed-cloud")
    snapshot = domain.snapshotCreateXML("<domainsnapshot><name>good</name></domainsnapshot>")
    cloud.run("touch", "/root/later")
    domain.revertToSnapshot(snapshot)
    cloud.wait(time.monotonic() + ANSWER_S)
    assert cloud.run("ls", "/root/later", check=False).returncode != 0
    snapshot.delete()


def test_nothing_of_it_is_left(idm: Idm, vm_lab: LibvirtLab, plain: Guest, up: str) -> None:
    """The seed goes with the stack; the guest that was there before has nothing of the product any more."""
    assert up
    assert idm("down") == "seed is down\n"
    assert not (vm_lab.directory / "vms" / "seed").exists()
    left = plain.run(
        "sh", "-c", "ls -d /etc/stackmend /usr/local/lib/stackmend /usr/local/bin/dma", check=False
    )
    assert left.stdout == ""
