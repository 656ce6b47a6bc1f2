"""A bundle's way into a machine, played on layers above this machine's root."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from idm.delivery import bundle
from idm.delivery.contents import Role
from idm.delivery.guest import DeliveryError
from idm.delivery.install import PLACE, BundleInstaller, uninstall
from idm.driver import Completed
from tests.lab.nspawn import Layer, layer

pytestmark = pytest.mark.lab

DEADLINE_S = 60.0
PROGRAM = "/usr/local/bin/dma"


class Machine:
    """Runs commands below another root; counts what was written there."""

    def __init__(self, root: Layer) -> None:
        self.layer = root
        self.written: list[str] = []

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """As root of that root."""
        assert vcd == "web"
        inside = ["chroot", str(self.layer.root), *command]
        end = subprocess.run(inside, input=stdin, capture_output=True, timeout=timeout_s, check=False)
        return Completed(end.returncode, (end.stdout + end.stderr).decode())

    def write(self, vcd: str, path: str, content: bytes) -> None:
        """A file below that root."""
        assert vcd == "web"
        self.written.append(path)
        (self.layer.root / path.lstrip("/")).write_bytes(content)

    def run(self, *command: str) -> Completed:
        """The same for the test."""
        return self.execute("web", command, timeout_s=DEADLINE_S)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a Python and without the agent."""
    if os.geteuid():
        pytest.skip("mounts a layer above this machine's root: needs root")
    with layer(tmp_path) as root:
        yield Machine(root)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for bundles."""
    return tmp_path_factory.mktemp("bundles")


def test_it_is_installed_once_and_taken_out(machine: Machine, bundles: Path) -> None:
    """The program answers by its link; a second time nothing is transferred; at the end nothing is left."""
    installer = BundleInstaller(bundles)
    before = machine.layer.files()
    installer.install(machine, "web", PROGRAM)
    assert machine.run("/usr/local/bin/dma", "--version").output.startswith("dma, version ")
    installer.install(machine, "web", PROGRAM)
    assert machine.written == [f"{PLACE}/{bundle.ensure(bundles, Role.AGENT).path.name}"]
    uninstall(machine, "web")
    left = {path for path in machine.layer.files() - before if not path.startswith(("run/", "dev/"))}
    assert left == set()


def test_what_an_image_has_is_left_alone(machine: Machine, bundles: Path) -> None:
    """A program of the machine's own is neither replaced nor taken out."""
    (machine.layer.root / "usr/local/bin/dma").write_text("#!/bin/sh\n")
    (machine.layer.root / "usr/local/bin/dma").chmod(0o755)
    installer = BundleInstaller(bundles)
    installer.install(machine, "web", PROGRAM)
    uninstall(machine, "web")
    assert machine.written == []
    assert machine.run("cat", "/usr/local/bin/dma").output == "#!/bin/sh\n"


def test_a_python_that_does_not_fit_is_told(machine: Machine, bundles: Path) -> None:
    """One line says which Python the machine has and what there are bundles for; nothing is transferred."""
    python = machine.layer.root / "usr/bin/python3"
    python.unlink()
    python.write_text("#!/bin/sh\necho cpython-39-x86_64-linux-gnu\n")
    python.chmod(0o755)
    _remove(machine.layer.root / "usr/bin", "python3.[0-9]*")
    with pytest.raises(
        DeliveryError, match=r"^web has cpython-39-x86_64-linux-gnu, there are bundles for cpython-"
    ):
        BundleInstaller(bundles).install(machine, "web", PROGRAM)
    assert machine.written == []
    python.unlink()
    with pytest.raises(DeliveryError, match=r"^web has no python3: install it there"):
        BundleInstaller(bundles).install(machine, "web", PROGRAM)


def test_a_bundle_that_does_not_run_is_taken_out(machine: Machine, bundles: Path) -> None:
    """What the machine cannot run is told in its own words, and not left where a unit would find it."""
    (machine.layer.root / "usr/lib/python3.11/ipaddress.py").write_text("raise OSError('too old')\n")
    with pytest.raises(DeliveryError, match=r"^web cannot run the bundle, OSError: too old: "):
        BundleInstaller(bundles).install(machine, "web", PROGRAM)
    assert not (machine.layer.root / "usr/local/lib/stackmend/dma").exists()
    assert not (machine.layer.root / "usr/local/bin/dma").is_symlink()


def _remove(directory: Path, pattern: str) -> None:
    for path in directory.glob(pattern):
        path.unlink()
