"""What is done when Vagrant's machines come and go."""

import fcntl
import hashlib
from contextlib import ExitStack
from pathlib import Path

import pytest

from idm.errors import DeployError
from idm.vagrant import Step, View, at_work, follow, machines

BOTH, ONE, NONE = frozenset({"p_a", "p_b"}), frozenset({"p_a"}), frozenset[str]()
# Both machines run and are guarded, by a manifest that nobody has changed.
GUARDED = View(declared=BOTH, existing=BOTH, running=BOTH, untouched=True, deployed=True, attended=True)


@pytest.mark.parametrize(
    ("view", "step"),
    [
        (GUARDED, Step()),
        (GUARDED._replace(declared=NONE, deployed=False, attended=False), Step(draft=True, up=True)),
        (GUARDED._replace(attended=False), Step(up=True)),
        (GUARDED._replace(declared=ONE), Step(down=True, draft=True, up=True)),
    ],
)
def test_machines_that_run_are_guarded(view: View, step: Step) -> None:
    """They get a manifest, a larger one when one was added, and somebody who attends to them."""
    assert follow(view) == step


def test_machines_that_are_halted_are_waited_for() -> None:
    """As long as one does not run, nothing is done to the others."""
    step = follow(GUARDED._replace(running=ONE, attended=False))
    assert step == Step(say="p_b is not running: guarded as soon as all do")


def test_a_machine_that_is_destroyed_ends_the_stack() -> None:
    """Nothing of ours outlives it; a stack that is down already stays so, until the machine is made again."""
    gone = GUARDED._replace(existing=ONE, running=ONE)
    assert follow(gone) == Step(down=True, say="p_b is not there: nothing is guarded")
    assert not follow(gone._replace(deployed=False)).down
    assert follow(gone, ending=True) == follow(gone)
    assert follow(gone._replace(deployed=False), ending=True) == Step()
    assert follow(gone._replace(declared=NONE, deployed=False), ending=True) == Step()
    assert follow(View(NONE, NONE, NONE, untouched=False, deployed=False, attended=False)).say.startswith(
        "there are no machines here yet"
    )


def test_machines_that_were_not_destroyed_after_all_are_guarded_again() -> None:
    """Whoever is asked may say no; what was down before is left so."""
    spared = GUARDED._replace(attended=False)
    assert follow(spared, ending=True) == Step(resume=True)
    assert follow(spared._replace(running=ONE), ending=True) == Step()
    assert follow(spared._replace(deployed=False), ending=True) == Step()


def test_a_person_decides_about_a_persons_manifest() -> None:
    """One that was changed by hand is never written over."""
    with pytest.raises(DeployError, match=r"^p_b is not in the manifest, which was changed by hand: add"):
        follow(GUARDED._replace(declared=ONE, untouched=False))


def test_machines_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were created with libvirt have an identifier in Vagrant's own files, wherever those are."""
    for name, provider, content in (
        ("a", "libvirt", "u-1"),
        ("b", "libvirt", ""),
        ("c", "virtualbox", "u-3"),
    ):
        path = tmp_path / ".vagrant" / "machines" / name / provider
        path.mkdir(parents=True)
        (path / "id").write_text(content)
    assert machines(tmp_path) == {"a": "u-1"}
    monkeypatch.setenv("VAGRANT_DOTFILE_PATH", str(tmp_path / "elsewhere"))
    assert machines(tmp_path) == {}


def test_vagrants_work_is_seen_by_its_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine is worked on while Vagrant holds the lock that it names by a digest; the file alone says nothing."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    project = tmp_path / "project"
    for name in ("a", "b", "c"):
        (project / ".vagrant" / "machines" / name).mkdir(parents=True)
    (tmp_path / "home" / "data").mkdir(parents=True)
    assert at_work(project) == 0
    with ExitStack() as held:
        for name in ("a", "b"):
            digest = hashlib.md5(f"{project}{project}/.vagrant{name}".encode()).hexdigest()
            lock = held.enter_context(
                (tmp_path / "home/data" / f"lock.machine-action-{digest}.lock").open("w")
            )
            if name == "a":
                fcntl.flock(lock, fcntl.LOCK_EX)
        assert at_work(project) == 1
    assert at_work(project) == 0
