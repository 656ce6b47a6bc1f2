"""Vagrant's machines on libvirt, and what is to be done when they come and go. Reads files, but asks nobody."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from idm.errors import DeployError

DOTFILES, HOME = "VAGRANT_DOTFILE_PATH", "VAGRANT_HOME"
LOCKS = Path("/proc/locks")
NOBODY = "there are no machines here yet: vagrant up makes them, with libvirt, where [libvirt] uri says"


class View(NamedTuple):
    """The project as it is: domains by name, and what is known of its stack.

    ``declared`` ones are in the manifest, which is ``untouched`` when it is as it was written for the user. A stack is
    ``deployed`` when it has a manager, and ``attended`` when something would be rolled back.
    """

    declared: frozenset[str]
    existing: frozenset[str]
    running: frozenset[str]
    untouched: bool
    deployed: bool
    attended: bool


class Step(NamedTuple):
    """What is to be done, in this order, or why nothing is; ``resume`` is for a stack that is up, but for its guard."""

    down: bool = False
    draft: bool = False
    up: bool = False
    resume: bool = False
    say: str = ""


def machines(project: Path) -> dict[str, str]:
    """The UUIDs of the project's machines that were created, by their names."""
    found = {}
    for path in sorted(_dotfiles(project).glob("machines/*/libvirt/id")):
        if identifier := path.read_text().strip():
            found[path.parts[-3]] = identifier
    return found


def at_work(project: Path) -> int:
    """On how many of the project's machines Vagrant is at work; none when its locks are not where they are expected."""
    locks = _home() / "data"
    names = [path.name for path in _dotfiles(project).glob("machines/*")]
    digests = [hashlib.md5(f"{project}{_dotfiles(project)}{name}".encode()).hexdigest() for name in names]
    # To try a lock would make Vagrant fail, had it wanted it at that moment.
    held = {
        line.split()[-3].rpartition(":")[2] for line in LOCKS.read_text().splitlines() if " FLOCK " in line
    }
    paths = [locks / f"lock.machine-action-{digest}.lock" for digest in digests]
    return sum(path.exists() and str(path.stat().st_ino) in held for path in paths)


def follow(view: View, *, ending: bool = False) -> Step:
    """What brings the stack in line with the machines; while they are ``ending`` no other one is begun.

    Raises :class:`DeployError` when a person has to decide.
    """
    if ending and not view.deployed:
        return Step()
    if gone := view.declared - view.existing:
        return Step(down=view.deployed, say=f"{_list(gone)} not there: nothing is guarded")
    if ending:
        # There was none to destroy, or who was asked has said no.
        return Step(resume=not view.attended and view.declared <= view.running)
    if not view.existing:
        return Step(say=NOBODY)
    new = view.existing - view.declared
    if new and view.declared and not view.untouched:
        raise DeployError(
            f"{_list(new)} not in the manifest, which was changed by hand: add what is missing, "
            "or remove the file to have it written anew"
        )
    if idle := view.existing - view.running:
        return Step(say=f"{_list(idle)} not running: guarded as soon as all do")
    return Step(down=bool(new) and view.deployed, draft=bool(new), up=bool(new) or not view.attended)


def _dotfiles(project: Path) -> Path:
    return project / os.environ.get(DOTFILES, ".vagrant")


def _home() -> Path:
    """Vagrant's, of whoever called this by sudo, if somebody did."""
    user = Path(f"~{os.environ.get('SUDO_USER', '')}").expanduser()
    return Path(os.environ.get(HOME) or user / ".vagrant.d")


def _list(names: Collection[str]) -> str:
    return f"{', '.join(sorted(names))} {'is' if len(names) == 1 else 'are'}"
