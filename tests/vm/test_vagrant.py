"""Vagrant's machines: mapped, guarded, and let go, by what three lines add to a Vagrantfile."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from idm import manifest
from idm.lock import holder
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import LabError
from tests.lab.vagrant import Project, box, traces
from tests.lab.vm_guest import KERNEL_ARGUMENTS
from tests.lab.vm_image import CLOUD
from tests.stubs import ROOT
from tests.vm.deployed import Idm, eventually

pytestmark = pytest.mark.vagrant

DEADLINE_S = 240
# What Vagrant and idm make of the name of the project's directory.
DIRECTORY, PREFIX, STACK = "the pair", "thepair_", "the-pair"
# A Vagrantfile that knows nothing of us: one machine serves, another one asks it now and then, and one lets nobody in.
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
      time.sleep(0.5)  # how often it asks is what is learned
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
  config.vm.define "gamma", autostart: false do |machine|
    machine.vm.boot_timeout = 5
    machine.vm.provider(:libvirt) { |v| v.cmd_line = "ARGUMENTS systemd.mask=ssh.service" }
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
    """The machines; destroyed at the end, if they are still there."""
    filled = {"BOX": box(vm_lab, CLOUD), "ARGUMENTS": KERNEL_ARGUMENTS, "RECIPE": recipe()}
    text = VAGRANTFILE
    for name, value in filled.items():
        text = text.replace(name, value)
    project = Project(vm_lab, tmp_path_factory.mktemp("vagrant") / DIRECTORY, text)
    yield project
    project.vagrant("destroy", "--force")


class Hypervisor:
    """What there is of the project on the lab's hypervisor."""

    def __init__(self, lab: LibvirtLab) -> None:
        self._lab = lab

    def machine(self, name: str) -> libvirt.virDomain:
        """The domain of a machine."""
        return self._lab.connection.lookupByName(f"{PREFIX}{name}")

    def running(self) -> set[str]:
        """The machines whose domains run."""
        names = (domain.name() for domain in self._lab.connection.listAllDomains() if domain.isActive())
        return {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)}

    def traces(self) -> list[str]:
        """Whatever is there of machines and of their stack."""
        return traces(self._lab, prefix=PREFIX, stack=STACK, network="pair")


@pytest.fixture(scope="module")
def hypervisor(vm_lab: LibvirtLab) -> Hypervisor:
    """The lab's hypervisor."""
    return Hypervisor(vm_lab)


def test_the_sample_stack_is_valid(vm_lab: LibvirtLab, tmp_path: Path) -> None:
    """Vagrant takes the Vagrantfile of the sample shop, whose manifest has its machines and the three lines."""
    text = (ROOT / "vagrant" / "Vagrantfile").read_text()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    Project(vm_lab, tmp_path / "shop", text).vagrant("validate")
    declared = manifest.load(ROOT / "vagrant" / "stack.toml")
    for vcd in declared.vcd.values():
        assert f'"{vcd.domain.removeprefix("shop_")}" => ["{vcd.address}"' in text
    assert all(line in text for line in recipe().splitlines())


def test_a_box_that_is_missing_is_told(vm_lab: LibvirtLab, hypervisor: Hypervisor, tmp_path: Path) -> None:
    """Where no network is in reach, Vagrant says so by itself; nothing is made, by it or by us."""
    text = f'Vagrant.configure("2") do |config|\nconfig.vm.box = "nobody/nothing"\n{recipe()}end\n'
    project = Project(vm_lab, tmp_path / DIRECTORY, text)
    with pytest.raises(LabError, match="'nobody/nothing' could not be found"):
        project.vagrant("up")
    assert hypervisor.traces() == []
    assert not (project.directory / "stack.toml").exists()


def test_machines_that_are_interrupted_as_they_boot_leave_nothing(
    project: Project, hypervisor: Hypervisor
) -> None:
    """After Ctrl-C Vagrant removes what it has begun, and there is nothing else."""
    said = project.interrupt("up", once=lambda _: hypervisor.running() == {"alpha", "beta"})
    assert "Waiting for cleanup before exiting" in said
    assert hypervisor.traces() == []
    assert not (project.directory / "stack.toml").exists()


@pytest.fixture(scope="module")
def halfway(project: Project) -> str:
    """The machines were being provisioned when Ctrl-C was pressed; what was said. One was saved then."""

    def provisioned(said: str) -> bool:
        return all(f"{name}: Running provisioner" in said for name in ("alpha", "beta"))

    said = project.interrupt("up", once=provisioned)
    project.vagrant("snapshot", "save", "alpha", "before")
    return said


def test_machines_that_are_interrupted_later_are_left_to_the_user(
    halfway: str, project: Project, hypervisor: Hypervisor
) -> None:
    """They run, and nothing was begun with them: neither a manifest nor a stack."""
    assert "Waiting for cleanup before exiting" in halfway
    assert hypervisor.running() == {"alpha", "beta"}
    assert not (project.directory / "stack.toml").exists()
    assert not [trace for trace in hypervisor.traces() if STACK in trace]


@pytest.mark.usefixtures("halfway")
def test_guarding_that_is_interrupted_is_told(project: Project, vm_lab: LibvirtLab) -> None:
    """Ctrl-C ends what is under way in order, and says how to go on; nobody attends to the stack then."""
    home = vm_lab.directory / "idm" / STACK
    said = project.interrupt("up", "--provision", once=lambda _: (home / "dm.pid").exists())
    assert "interrupted: vagrant up goes on from here" in said
    assert "Traceback" not in said
    assert not (home / "watch.pid").exists()


@pytest.fixture(scope="module")
def idm(project: Project, halfway: str, vm_lab: LibvirtLab) -> Idm:
    """For the stack of the machines, once Vagrant has brought them up."""
    assert halfway
    said = project.vagrant("up", "--provision")
    idm = Idm(vm_lab, project.directory / "stack.toml", stack=STACK)
    # The trigger of the machine that comes first leaves it to the other one's.
    assert said.count("vagrant is at work on other machines") == said.count("attends to the stack") == 1, said
    return idm


def outcomes(idm: Idm) -> list[str]:
    """How the rollbacks of the stack have ended, newest first; empty for one that goes on."""
    return [json.loads(line).get("outcome", "") for line in idm("history", "--json").splitlines()]


def whole(idm: Idm) -> bool:
    """Whether the stack is ok."""
    return idm.run("status").returncode == 0


def test_machines_that_came_up_are_mapped(idm: Idm, project: Project) -> None:
    """The manifest has both, in the network that they were given, and their agents report."""
    text = (project.directory / "stack.toml").read_text()
    assert 'libvirt = "pair"' in text
    assert all(line in text for line in ("[vcd.alpha]", "[vcd.beta]", 'address = "198.18.40.12"'))
    status = json.loads(idm.run("status", "--json").stdout)
    assert status["instances"] == {"alpha": "running", "beta": "running"}


def test_what_breaks_is_taken_back(idm: Idm, project: Project) -> None:
    """A service that is switched off for good is there again, by one rollback of its machine."""
    idm("capture")
    project.vagrant("ssh", "beta", "-c", "sudo systemctl disable --now work.service")
    eventually(lambda: any(outcomes(idm)), within_s=DEADLINE_S)
    assert outcomes(idm) == ["ROLLBACK_OUTCOME_RECOVERED"]
    assert "active" in project.vagrant("ssh", "beta", "-c", "systemctl is-active work.service")
    eventually(lambda: whole(idm), within_s=DEADLINE_S)


def test_a_users_own_snapshots_are_no_fault(idm: Idm, project: Project) -> None:
    """Machines that a person takes back are told as such, and whole again without being taken back once more."""
    rollbacks = idm("history")
    project.vagrant("snapshot", "push")
    project.vagrant("snapshot", "pop", "--no-provision")

    def told() -> bool:
        return {event["vcd"] for event in idm.events("external rollback")} == {"alpha", "beta"}

    eventually(told, within_s=DEADLINE_S)
    eventually(lambda: whole(idm), within_s=DEADLINE_S)
    assert idm("history") == rollbacks


def test_a_snapshot_from_before_the_stack_takes_nothing_from_it(idm: Idm, project: Project) -> None:
    """A machine as it was without any agent gets one again; neither side's snapshots are lost."""
    rollbacks, snapshots = idm("history"), idm("snapshots")
    project.vagrant("snapshot", "restore", "alpha", "before")
    # It was saved before it had its work.
    project.vagrant("provision", "alpha")
    eventually(lambda: len(idm.events("external rollback", vcd="alpha")) == 2, within_s=DEADLINE_S)
    eventually(lambda: whole(idm), within_s=DEADLINE_S)
    assert idm("history") == rollbacks
    assert idm("snapshots") == snapshots
    idm("rollback", "alpha", "--yes")
    assert outcomes(idm)[0] == "ROLLBACK_OUTCOME_RECOVERED"
    assert "before" in project.vagrant("snapshot", "list", "alpha")


def test_a_machine_that_is_reloaded_is_waited_for(idm: Idm, project: Project) -> None:
    """While Vagrant halts it nothing is rolled back; the stack is guarded again once all is up."""
    rollbacks = idm("history")
    said = project.vagrant("reload", "beta")
    assert said.index("nothing is rolled back until vagrant") < said.index("attends to the stack")
    eventually(lambda: whole(idm), within_s=DEADLINE_S)
    assert idm("history") == rollbacks


def test_machines_that_nobody_says_to_destroy_stay_guarded(
    idm: Idm, project: Project, vm_lab: LibvirtLab
) -> None:
    """Vagrant asks, and ends when it gets no answer, without telling us; the stack is attended to again by then."""
    lock = vm_lab.directory / "idm" / STACK / "idm.lock"
    with pytest.raises(LabError, match="TTY"):
        project.vagrant("destroy", "alpha")
    eventually(lambda: holder(lock) is not None, within_s=DEADLINE_S)
    eventually(lambda: whole(idm), within_s=DEADLINE_S)


def test_a_machine_that_does_not_boot_disturbs_nobody(
    idm: Idm, project: Project, hypervisor: Hypervisor
) -> None:
    """Vagrant tells it and removes it; the others are left alone and guarded, also when it is destroyed once more."""
    before = {name: hypervisor.machine(name).ID() for name in ("alpha", "beta")}
    with pytest.raises(LabError, match="Timed out while waiting for the machine to boot"):
        project.vagrant("up", "gamma")
    assert hypervisor.running() == {"alpha", "beta"}
    assert "attends to the stack again" in project.vagrant("destroy", "--force", "gamma")
    assert {name: hypervisor.machine(name).ID() for name in before} == before
    eventually(lambda: whole(idm), within_s=DEADLINE_S)


def test_a_machine_that_is_gone_is_told_and_not_fought_for(idm: Idm, hypervisor: Hypervisor) -> None:
    """Destroyed past Vagrant and us, it is named once with what to do; nothing is tried, or done to the other one."""
    other, before = hypervisor.machine("alpha").ID(), outcomes(idm)
    beta = hypervisor.machine("beta")
    beta.destroy()
    beta.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    eventually(lambda: "absent" in idm.run("status").stdout, within_s=DEADLINE_S)
    eventually(lambda: outcomes(idm) != before, within_s=DEADLINE_S)
    assert outcomes(idm) == ["ROLLBACK_OUTCOME_GAVE_UP", *before]
    assert f'beta has no domain "{PREFIX}beta" of its own: idm up adopts it once it is there again' in idm(
        "history"
    )
    assert hypervisor.running() == {"alpha"}
    assert hypervisor.machine("alpha").ID() == other


@pytest.mark.usefixtures("idm")
def test_destroyed_machines_leave_nothing(project: Project, hypervisor: Hypervisor) -> None:
    """After the last machine there is no process, socket, domain or disk of the stack; its manifest stays."""
    project.vagrant("destroy", "--force")
    # Vagrant forgets the networks of a machine that was destroyed past it.
    assert [trace for trace in hypervisor.traces() if not trace.startswith("network")] == []
    assert (project.directory / "stack.toml").exists()
