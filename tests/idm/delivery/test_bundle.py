"""The agent as an archive that needs nothing but a Python."""

import os
import subprocess
import sysconfig
import tarfile
from pathlib import Path

import pytest

from idm.delivery import bundle
from idm.delivery.contents import OWN, Python, Role
from idm.errors import DeployError

INTERPRETER = "/usr/bin/python3"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the agent's bundle of this installation."""
    directory = tmp_path_factory.mktemp("bundles")
    bundle.ensure(directory, Role.AGENT)
    return directory


@pytest.mark.parametrize("role", Role)
def test_a_program_runs_from_what_is_unpacked(bundles: Path, tmp_path: Path, role: Role) -> None:
    """With a link to a Python it is an environment from which the program is imported, and what that needs."""
    with tarfile.open(bundle.ensure(bundles, role).path) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "bin" / "python").symlink_to(INTERPRETER)
    told = f"import sys, {role.value}.cli as cli; print(sys.prefix, cli.__file__)"
    said = subprocess.run(
        [tmp_path / "bin" / "python", "-Ic", told], capture_output=True, text=True, check=True
    )
    prefix, module = said.stdout.split()
    assert prefix == str(tmp_path)
    assert Path(module).is_relative_to(tmp_path)
    program = tmp_path / "bin" / role.value
    assert program.read_text().startswith(f"#!{role.home}/bin/python -I\n")
    assert os.access(program, os.X_OK)


def test_the_agent_brings_what_loads_its_object(bundles: Path) -> None:
    """The BPF object and libbpf are there, and the manager's own libraries are not."""
    with tarfile.open(bundle.ensure(bundles, Role.AGENT).path) as archive:
        names = archive.getnames()
    assert {"lib/libbpf.so.1", "lib/libelf.so.1"} <= set(names)
    assert any(name.endswith("/dma/capture/flows.bpf.o") for name in names)
    assert not any("/networkx/" in name or "/grpc/" in name for name in names)


def test_one_that_is_current_is_kept(bundles: Path) -> None:
    """It is made once, and made again in place of the old one when the installation has changed."""
    first = bundle.ensure(bundles, Role.AGENT)
    made = first.path.stat().st_mtime_ns
    assert bundle.ensure(bundles, Role.AGENT) == first
    assert first.path.stat().st_mtime_ns == made
    outdated = first.path.rename(bundles / f"dma.{first.abi}.0123456789abcdef.tar.gz")
    assert bundle.ensure(bundles, Role.AGENT) == first
    assert not outdated.exists()
    assert [path.name for path in bundles.glob("dma.*")] == [first.path.name]


def test_bundles_of_others_are_found(bundles: Path) -> None:
    """What another host has made for its Python lies beside this one's, by what it fits."""
    brought = bundles / "dma.cpython-399-riscv64-linux-gnu.abc.tar.gz"
    brought.touch()
    found = bundle.available(bundles, Role.AGENT)
    assert found["cpython-399-riscv64-linux-gnu"] == (
        brought,
        Role.AGENT,
        "cpython-399-riscv64-linux-gnu",
        "abc",
    )
    assert found[OWN.abi] == bundle.ensure(bundles, Role.AGENT)
    brought.unlink()


def test_another_python_gets_the_libraries_that_are_for_it(bundles: Path, tmp_path: Path) -> None:
    """With a directory of libraries for its version there is a bundle for it, too; one that lacks some is told."""
    installed = Path(sysconfig.get_path("purelib"))
    made = bundle.ensure(bundles, Role.AGENT, Python("3.99", installed))
    assert made.abi == OWN.abi.replace(f"-{OWN.version.replace('.', '')}-", "-399-")
    with tarfile.open(made.path) as archive:
        names = archive.getnames()
    assert "lib/python3.99/site-packages/dma/cli.py" in names
    assert "lib/python3.99/site-packages/click/__init__.py" in names
    assert bundle.available(bundles, Role.AGENT)[made.abi] == made
    with pytest.raises(DeployError, match=rf" is missing in {tmp_path}: install all of runtime.lock there"):
        bundle.ensure(bundles, Role.AGENT, Python("3.98", tmp_path))
    made.path.unlink()
