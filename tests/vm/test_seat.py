"""The manager in a VM of its stack: delivered there, reached by certificates, and never taken back."""

from collections.abc import Iterator

import pytest

from idm.delivery.manager import paths, unit
from tests.lab.libvirt import LibvirtLab
from tests.vm.deployed import Deployed, deployed, eventually

pytestmark = pytest.mark.vm

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
def stack(vm_lab: LibvirtLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The two, one calling the other, with the agent's program and nothing of a stack until it is up."""
    manifest = tmp_path_factory.mktemp("seat") / "stack.toml"
    manifest.write_text(STACK)
    with deployed(vm_lab, manifest, caller="web", server="control") as stack:
        yield stack


def test_the_manager_runs_in_its_vm_and_people_reach_it(stack: Deployed) -> None:
    """Its service is the only manager; learning, which is for people alone, and a rollback go through it."""
    control, web = stack.guests["control"], stack.guests["web"]
    assert control.run("systemctl", "is-active", unit("seat")).stdout == "active\n"
    assert control.run("stat", "-c%a", paths("seat")[2]).stdout == "600\n"
    stack.idm("capture")
    web.run("touch", "/run/gone")
    stack.idm("rollback", "web", "--yes")
    assert web.run("test", "-e", "/run/gone", check=False).returncode == 1
    eventually(lambda: stack.idm.run("status").returncode == 0, within_s=60)


def test_the_managers_vm_is_not_taken_back(stack: Deployed) -> None:
    """Who asks for it is told what to do."""
    refused = stack.idm.run("rollback", "control", "--yes")
    assert refused.returncode == 1
    assert refused.stderr == (
        "idm: control holds the manager, and is never rolled back by it: take it back by hand\n"
    )
