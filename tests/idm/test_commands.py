"""Commands about machines that are there already, against libvirt's own test hypervisor."""

import asyncio
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import libvirt
import pytest
from click.testing import CliRunner, Result

from idm import manifest
from idm.cli import main
from idm.process import find
from idm.vagrant import NOBODY
from tests.idm.until import until

URI = "test:///default"
NOBODYS_ID = 65534
# Addresses on this hypervisor follow from the number of domains that were ever started in this process.
NETWORK = """
<network><name>wide</name><bridge name='wide0'/><ip address='198.18.0.1' netmask='255.255.0.0'>
<dhcp><range start='198.18.0.2' end='198.18.255.254'/></dhcp></ip></network>
"""
DOMAIN = """
<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os>
<devices><interface type='network'><mac address='52:54:00:00:00:0{number}'/><source network='wide'/></interface>
{channel}</devices></domain>
"""
CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
DEPLOYER = """
import sys; from pathlib import Path; from idm.lock import lock
with lock(Path(sys.argv[1]), purpose="deploys"):
    print(flush=True); sys.stdin.read()
"""
UUIDS = {f"proj_{name}": f"00000000-0000-0000-0000-00000000000{n}" for n, name in enumerate(("a", "b"), 1)}


@pytest.fixture
def hypervisor() -> Iterator[libvirt.virConnect]:
    """Two domains run on it, one with a channel to a guest agent; while this connection is open it remembers them."""
    connection = libvirt.open(URI)
    network = connection.networkCreateXML(NETWORK)
    domains = [
        connection.createXML(DOMAIN.format(name=name, uuid=uuid, number=number, channel=channel))
        for (number, (name, uuid)), channel in zip(enumerate(UUIDS.items(), 1), (CHANNEL, ""), strict=True)
    ]
    yield connection
    for domain in domains:
        domain.destroy()
    network.destroy()
    connection.close()


class Idm:
    """``idm`` with that hypervisor, on the manifest of a project."""

    def __init__(self, directory: Path) -> None:
        self.manifest = directory / "project" / "stack.toml"
        self.manifest.parent.mkdir()
        self._settings = directory / "idm.toml"
        self._settings.write_text(
            f'[state]\ndirectory = "{directory}/state"\nrun = "{directory}/run"\n[libvirt]\nuri = "{URI}"\n'
        )

    def __call__(self, *arguments: str) -> Result:
        options = ["--file", str(self.manifest), "--config", str(self._settings)]
        return CliRunner().invoke(main, [*options, *arguments])


@pytest.fixture
def idm(hypervisor: libvirt.virConnect, tmp_path: Path) -> Idm:
    """The command."""
    assert hypervisor.isAlive()
    return Idm(tmp_path)


@contextmanager
def at_work(project: Path, home: Path, *machines: str) -> Iterator[None]:
    """Hold what Vagrant holds while it is at work on machines."""
    (home / "data").mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for name in machines:
            (project / ".vagrant" / "machines" / name).mkdir(parents=True)
            digest = hashlib.md5(f"{project}{project}/.vagrant{name}".encode()).hexdigest()
            lock = held.enter_context((home / "data" / f"lock.machine-action-{digest}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_domains_that_run_are_adopted(idm: Idm) -> None:
    """A pattern names them; the manifest has them with their addresses, belongs to the project, and is never lost."""
    if os.geteuid() == 0:
        os.chown(idm.manifest.parent, NOBODYS_ID, NOBODYS_ID)
    assert idm("adopt", "proj_*").exit_code == 0
    assert idm.manifest.stat().st_uid == idm.manifest.parent.stat().st_uid
    read = manifest.load(idm.manifest)
    assert (read.stack.name, read.network.libvirt) == ("project", "wide")
    assert {name: vcd.domain for name, vcd in read.vcd.items()} == {"a": "proj_a", "b": "proj_b"}
    assert all(vcd.address.startswith("198.18.") for vcd in read.vcd.values())
    again = idm("adopt", "proj_*")
    assert again.exit_code == 1
    assert again.stderr == f"idm: {idm.manifest} is there already: remove it, or name another by --file\n"


def test_what_cannot_be_adopted_is_told(idm: Idm) -> None:
    """Names of nothing, and guests that do not answer though they are to be waited for, leave no manifest."""
    assert idm("adopt", "other").stderr == "idm: no domain of that name runs: see virsh list\n"
    silent = idm("adopt", "--wait", "0.1", "proj_a")
    assert silent.stderr == (
        "idm: no guest agent answers in proj_a: install and start qemu-guest-agent there\n"
    )
    unreachable = idm("adopt", "--wait", "60", "proj_b")
    assert unreachable.stderr.startswith(
        "idm: proj_b has no channel to a guest agent: add it to its definition"
    )
    assert not idm.manifest.exists()


def test_a_project_without_machines_is_left_alone(idm: Idm) -> None:
    """Neither before nor after anything is there to be done."""
    assert idm("vagrant", "before", "halt").output == ""
    assert idm("vagrant", "after", "up").output == f"{NOBODY}\n"


def test_machines_that_come_up_side_by_side_are_left_to_the_last(
    idm: Idm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as Vagrant is at work on another machine than the one that it calls for, nothing is done."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    with at_work(idm.manifest.parent, tmp_path / "home", "a", "b"):
        said = idm("vagrant", "after", "up").output
        assert said == "vagrant is at work on other machines: guarded when these are done, too\n"
    assert idm("vagrant", "after", "up").output == f"{NOBODY}\n"


def test_machines_that_are_not_there_any_more_are_told(idm: Idm) -> None:
    """A stack that is down stays so while one of its machines is missing."""
    assert idm("adopt", "proj_*").exit_code == 0
    idm.manifest.write_text(idm.manifest.read_text().replace('"proj_b"', '"proj_gone"'))
    said = idm("vagrant", "after", "up")
    assert (said.exit_code, said.output) == (0, "proj_gone is not there: nothing is guarded\n")


def test_machines_that_vagrant_left_alone_are_guarded_again(idm: Idm, tmp_path: Path) -> None:
    """Once it is at work no more, somebody is to attend to a stack that is up; this hypervisor can save no machines."""
    assert idm("adopt", "proj_*").exit_code == 0
    (tmp_path / "run" / "project").mkdir(parents=True)
    assert idm("vagrant", "later", "destroy").stderr.startswith("idm: the watch does not get ready: ")


def test_what_vagrant_leaves_is_looked_at_when_it_is_done(
    idm: Idm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever attends to the stack is ended, and another process waits; these machines are gone by then."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    assert idm("adopt", "proj_*").exit_code == 0
    run = tmp_path / "run" / "project"
    run.mkdir(parents=True)
    with at_work(idm.manifest.parent, tmp_path / "home", "a"):
        with subprocess.Popen(
            [sys.executable, "-c", DEPLOYER, run / "idm.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as deployer:
            assert deployer.stdout is not None
            deployer.stdout.readline()
            said = idm("vagrant", "before", "destroy").output
        assert said == "nothing is rolled back until vagrant has brought all machines back\n"
        found = find(run, "later")
        assert found
    found[1].close()
    asyncio.run(until(lambda: not run.exists(), timeout_s=30))
