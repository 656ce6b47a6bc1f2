"""The sample shop on Vagrant's machines: the manager in one of its own, the deployer beside the hypervisor."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from idm import manifest
from idm.delivery.manager import unit
from tests.lab.libvirt import LibvirtLab
from tests.lab.vagrant import POOL, Project, box, traces
from tests.lab.vm_image import CLOUD_SHOP
from tests.stubs import ROOT
from tests.vm.deployed import Idm, eventually

pytestmark = pytest.mark.vagrant

SAMPLE = ROOT / "vagrant"
# Six machines boot at once, where instructions may be emulated.
UP_S = 1200
DEADLINE_S = 300


@pytest.fixture(scope="module")
def project(vm_lab: LibvirtLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The sample's own files, and who the shop pays with; the machines are destroyed at the end."""
    directory: Path = tmp_path_factory.mktemp("sample") / "vagrant"
    (directory.parent / "examples").symlink_to(ROOT / "examples")
    variables = {
        "STACKMEND_BOX": box(vm_lab, CLOUD_SHOP),
        "STACKMEND_URI": vm_lab.uri,
        "STACKMEND_DRIVER": vm_lab.host.kind,
        "STACKMEND_POOL": POOL,
    }
    project = Project(vm_lab, directory, (SAMPLE / "Vagrantfile").read_text(), variables=variables)
    shutil.copy(SAMPLE / "stack.toml", directory)
    payments = [sys.executable, str(ROOT / "examples/shop/external.py"), "--address", "198.18.10.1"]
    with subprocess.Popen(project.inside(*payments)) as provider:
        try:
            yield project
            project.vagrant("destroy", "--force")
        finally:
            provider.kill()


@pytest.fixture(scope="module")
def idm(project: Project, vm_lab: LibvirtLab) -> Idm:
    """For the stack, once Vagrant has brought it up."""
    said = project.vagrant("up", timeout_s=UP_S)
    assert "the smoke workload passed" in said, said
    return Idm(vm_lab, project.directory / "stack.toml", stack="shop")


def test_the_shop_works_and_its_manager_has_a_machine_of_its_own(idm: Idm, project: Project) -> None:
    """All machines run, each with its agent as a service; the manager is a service of its own one."""
    instances = json.loads(idm.run("status", "--json").stdout)["instances"]
    declared = manifest.load(SAMPLE / "stack.toml")
    assert instances == dict.fromkeys(declared.vcd, "running")
    services = f"systemctl is-active {unit('shop')} stackmend-dma.service"
    assert project.vagrant("ssh", "control", "-c", services).split()[-2:] == ["active", "active"]


def test_what_breaks_is_taken_back(idm: Idm, project: Project) -> None:
    """What its README tells to try: the cache is switched off for good, and is taken back alone."""
    assert "the smoke workload passed" in idm("capture")
    project.vagrant("ssh", "cache", "-c", "sudo systemctl disable --now shop@cache")

    def ended() -> bool:
        return any(json.loads(line).get("outcome") for line in idm("history", "--json").splitlines())

    eventually(ended, within_s=DEADLINE_S)
    (rollback,) = (json.loads(line) for line in idm("history", "--json").splitlines())
    assert (rollback["vcds"], rollback["outcome"]) == (["cache"], "ROLLBACK_OUTCOME_RECOVERED")
    eventually(lambda: idm.run("status").returncode == 0, within_s=DEADLINE_S)


@pytest.mark.usefixtures("idm")
def test_destroyed_machines_leave_nothing(project: Project, vm_lab: LibvirtLab) -> None:
    """After the last machine there is no process, socket, domain, network or disk of the shop."""
    project.vagrant("destroy", "--force")
    assert traces(vm_lab, prefix="shop_", stack="shop", network="shop") == []
