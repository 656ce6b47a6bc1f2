"""Servers of Debian's packages, unpacked and not installed: nothing of theirs starts by itself."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.lab.image import ImageSpec, bootstrap
from tests.lab.vm_store import Store


class Program(NamedTuple):
    """An executable of a package of a release; it needs no other file of the package."""

    package: str
    suite: str
    path: str


CONSUL = Program("consul", "bullseye", "usr/bin/consul")
ETCD = Program("etcd-server", "bookworm", "usr/bin/etcd")


def program(wanted: Program) -> Path:
    """The executable, fetched when the store does not have it; raises ``LabError`` when that fails."""
    spec = ImageSpec(wanted.package, (wanted.package,), suite=wanted.suite, variant="extract")

    def fetch(target: Path) -> None:
        root = target.parent / "root"
        bootstrap(spec, root)
        target.mkdir()
        (root / wanted.path).rename(target / "program")
        shutil.rmtree(root)

    with Store(_directory()) as store:
        return store.ensure(wanted.package, spec.inputs(), fetch) / "program"


def _directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stackmend" / "programs"
