"""What Vagrant's triggers do, against libvirt's own test hypervisor."""

import asyncio
import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from idm.process import find
from idm.vagrant import NOBODY
from tests.idm.hypervisor import Command
from tests.idm.until import until

DEPLOYER = """
import sys; from pathlib import Path; from idm.lock import lock
with lock(Path(sys.argv[1]), purpose="deploys"):
    print(flush=True); sys.stdin.read()
"""


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


def test_a_project_without_machines_is_left_alone(idm: Command) -> None:
    """Neither before nor after anything is there to be done."""
    assert idm("vagrant", "before", "halt").output == ""
    assert idm("vagrant", "after", "up").output == f"{NOBODY}\n"


def test_machines_that_come_up_side_by_side_are_left_to_the_last(
    idm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as Vagrant is at work on another machine than the one that it calls for, nothing is done."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    with at_work(idm.manifest.parent, tmp_path / "home", "a", "b"):
        said = idm("vagrant", "after", "up").output
        assert said == "vagrant is at work on other machines: guarded when these are done, too\n"
    assert idm("vagrant", "after", "up").output == f"{NOBODY}\n"


def test_machines_that_are_not_there_any_more_are_told(idm: Command) -> None:
    """A stack that is down stays so while one of its machines is missing."""
    assert idm("adopt", "proj_*").exit_code == 0
    idm.manifest.write_text(idm.manifest.read_text().replace('"proj_b"', '"proj_gone"'))
    said = idm("vagrant", "after", "up")
    assert (said.exit_code, said.output) == (0, "proj_gone is not there: nothing is guarded\n")


def test_machines_that_vagrant_left_alone_are_guarded_again(idm: Command, tmp_path: Path) -> None:
    """Once it is at work no more, somebody is to attend to a stack that is up; this hypervisor can save no machines."""
    assert idm("adopt", "proj_*").exit_code == 0
    (tmp_path / "run" / "project").mkdir(parents=True)
    assert idm("vagrant", "later", "destroy").stderr.startswith("idm: the watch does not get ready: ")


def test_what_vagrant_leaves_is_looked_at_when_it_is_done(
    idm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
