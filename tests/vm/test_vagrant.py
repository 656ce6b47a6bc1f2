"""Vagrant's machines: mapped, guarded, and let go, by what three lines add to a Vagrantfile."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from idm import manifest
from tests.lab.libvirt import LibvirtLab
from tests.lab.vagrant import BOX, Project
from tests.stubs import ROOT

pytestmark = pytest.mark.vagrant

DEADLINE_S = 240
# A Vagrantfile that knows nothing of us: one machine serves, the other one asks it now and then.
VAGRANTFILE = """\
SERVE = <<~PROGRAM
  import http.server
  http.server.HTTPServer(("", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
PROGRAM
ASK = <<~PROGRAM
  import time, urllib.request
  while True:
      try:
          urllib.request.urlopen("http://198.18.40.12:8080/", timeout=2).read()
      except OSError:
          pass
      time.sleep(0.5)
PROGRAM

def service(program)
  <<~SCRIPT
    cat > /usr/local/bin/work.py <<'END'
    #{program}
    END
    cat > /etc/systemd/system/work.service <<'END'
    [Service]
    ExecStart=/usr/bin/python3 /usr/local/bin/work.py
    Restart=always
    [Install]
    WantedBy=multi-user.target
    END
    systemctl enable --now work.service
  SCRIPT
end

Vagrant.configure("2") do |config|
  config.vm.box = "BOX"
  { "alpha" => ["198.18.40.11", ASK], "beta" => ["198.18.40.12", SERVE] }.each do |name, (address, program)|
    config.vm.define name do |machine|
      machine.vm.hostname = name
      machine.vm.network :private_network, ip: address, libvirt__network_name: "pair",
                         libvirt__forward_mode: "none", libvirt__dhcp_enabled: false
      machine.vm.provision "shell", inline: service(program)
    end
  end
RECIPE
end
"""


def recipe() -> str:
    """The lines that are to be added, as users are told."""
    found = re.search(r"```ruby\n(.*?)```", (ROOT / "vagrant" / "README.md").read_text(), re.DOTALL)
    assert found
    assert len(found[1].splitlines()) == 3
    return found[1]


@pytest.fixture(scope="module")
def project(vm_lab: LibvirtLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The two machines; destroyed at the end, if they are still there."""
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed: apt-get install vagrant vagrant-libvirt")
    text = VAGRANTFILE.replace("BOX", BOX).replace("RECIPE", recipe())
    project = Project(vm_lab, tmp_path_factory.mktemp("vagrant") / "pair", text)
    yield project
    project.vagrant("destroy", "--force")


class Idm:
    """``idm`` on the project's stack."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.manifest = project.directory / "stack.toml"

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "idm", "--file", str(self.manifest), *arguments]
        return subprocess.run(
            self._project.inside(*command),
            env=self._project.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def outcomes(self) -> list[str]:
        """How the rollbacks of the stack have ended, newest first; empty while one goes on."""
        said = self("history", "--json").stdout
        return [json.loads(line).get("outcome", "") for line in said.splitlines()]

    def becomes_whole(self) -> bool:
        """Whether the stack is ok before the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while self("status").returncode:
            if time.monotonic() > deadline:
                return False
        return True


def test_the_sample_stack_is_valid(vm_lab: LibvirtLab, tmp_path: Path) -> None:
    """Vagrant takes the Vagrantfile of the sample shop, whose manifest has its machines and the three lines."""
    text = (ROOT / "vagrant" / "Vagrantfile").read_text()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    Project(vm_lab, tmp_path / "shop", text).vagrant("validate")
    declared = manifest.load(ROOT / "vagrant" / "stack.toml")
    for vcd in declared.vcd.values():
        assert f'"{vcd.domain.removeprefix("shop_")}" => ["{vcd.address}"' in text
    assert all(line in text for line in recipe().splitlines())


@pytest.fixture(scope="module")
def idm(project: Project) -> Idm:
    """For the machines, once they are up."""
    project.vagrant("up")
    return Idm(project)


def test_machines_that_came_up_are_mapped(idm: Idm) -> None:
    """The manifest has both, in the network that they were given, and their agents report."""
    text = idm.manifest.read_text()
    assert 'libvirt = "pair"' in text
    assert all(line in text for line in ("[vcd.alpha]", "[vcd.beta]", 'address = "198.18.40.12"'))
    status = json.loads(idm("status", "--json").stdout)
    assert status["instances"] == {"alpha": "running", "beta": "running"}


def test_what_breaks_is_taken_back(idm: Idm, project: Project) -> None:
    """A service that is switched off for good is there again, by one rollback of its machine."""
    captured = idm("capture")
    assert captured.returncode == 0, captured.stderr
    project.vagrant("ssh", "beta", "-c", "sudo systemctl disable --now work.service")
    deadline = time.monotonic() + DEADLINE_S
    while not any(idm.outcomes()):
        assert time.monotonic() < deadline, idm("status").stdout
    assert idm.outcomes() == ["ROLLBACK_OUTCOME_RECOVERED"]
    assert "active" in project.vagrant("ssh", "beta", "-c", "systemctl is-active work.service")
    assert idm.becomes_whole()


def test_a_users_own_snapshot_is_no_fault(idm: Idm, project: Project) -> None:
    """Machines that a person takes back are whole again without being taken back once more."""
    project.vagrant("snapshot", "save", "alpha", "mine")
    project.vagrant("snapshot", "restore", "alpha", "mine", "--no-provision")
    assert idm.becomes_whole()
    assert len(idm.outcomes()) == 1


def test_destroyed_machines_leave_nothing(idm: Idm, project: Project, vm_lab: LibvirtLab) -> None:
    """After the last machine there is no process, socket, domain or disk of the stack."""
    project.vagrant("destroy", "--force")
    assert idm.manifest.exists()
    assert not (vm_lab.directory / "idm" / "pair").exists()
    names = [domain.name() for domain in vm_lab.connection.listAllDomains()]
    assert not [name for name in names if name.startswith("pair_")]
    assert not list(Path(vm_lab.directory / "vms").glob("pair*"))
