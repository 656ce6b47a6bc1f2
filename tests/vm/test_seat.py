"""The manager in a VM of its stack: delivered there, reached by certificates, and never taken back."""

from collections.abc import Iterator

import pytest

from idm.delivery.manager import paths, unit
from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest
from tests.vm.deployed import Idm, eventually, let_call, traces

pytestmark = pytest.mark.vm

GUESTS = {"seat-control": "198.18.0.81", "seat-web": "198.18.0.82"}
STACK = """
[stack]
name = "seat"
driver = "libvirt"

[network]
subnet = "198.18.0.0/24"
bridge = "br0"

[manager]
vcd = "control"

[vcd.control]
domain = "seat-control"
address = "198.18.0.81"

[vcd.web]
domain = "seat-web"
address = "198.18.0.82"
"""


@pytest.fixture(scope="module")
def guests(vm_lab: LibvirtLab) -> Iterator[dict[str, Guest]]:
    """Two guests that have the product's programs, one calling the other."""
    made = {guest.name: guest for guest in vm_lab.guests(GUESTS, product=True)}
    let_call(made["seat-web"], made["seat-control"])
    yield made
    for guest in made.values():
        guest.end()


@pytest.fixture(scope="module")
def idm(
    vm_lab: LibvirtLab, guests: dict[str, Guest], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Idm]:
    """For a stack of the two, which is up; at the end it is down, and the guests are as they were."""
    before = {name: traces(vm_lab, guest) for name, guest in guests.items()}
    manifest = tmp_path_factory.mktemp("seat") / "stack.toml"
    manifest.write_text(STACK)
    idm = Idm(vm_lab, manifest, stack="seat")
    assert "2 VCDs are started, 2 agents watch them" in idm("up")
    yield idm
    assert idm("down") == "seat is down\n"
    assert {name: traces(vm_lab, guest) for name, guest in guests.items()} == before


def test_the_manager_runs_in_its_vm_and_people_reach_it(idm: Idm, guests: dict[str, Guest]) -> None:
    """Its service is the only manager; learning, which is for people alone, and a rollback go through it."""
    control, web = guests["seat-control"], guests["seat-web"]
    assert control.run("systemctl", "is-active", unit("seat")).stdout == "active\n"
    assert control.run("stat", "-c%a", paths("seat")[2]).stdout == "600\n"
    idm("capture")
    web.run("touch", "/run/gone")
    idm("rollback", "web", "--yes")
    assert web.run("test", "-e", "/run/gone", check=False).returncode == 1
    eventually(lambda: idm.run("status").returncode == 0, within_s=60)


def test_the_managers_vm_is_not_taken_back(idm: Idm) -> None:
    """Who asks for it is told what to do."""
    refused = idm.run("rollback", "control", "--yes")
    assert refused.returncode == 1
    assert refused.stderr == (
        "idm: control holds the manager, and is never rolled back by it: take it back by hand\n"
    )
