"""The agent as an archive that needs nothing but a Python."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from idm.delivery import bundle

INTERPRETER = "/usr/bin/python3"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the bundle of this installation."""
    directory = tmp_path_factory.mktemp("bundles")
    bundle.ensure(directory)
    return directory


def test_the_programs_run_from_what_is_unpacked(bundles: Path, tmp_path: Path) -> None:
    """With a link to a Python it is an environment that imports both programs, and libbpf lies beside them."""
    with tarfile.open(bundle.ensure(bundles).path) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "bin" / "python").symlink_to(INTERPRETER)
    told = "import sys, dma.cli, dm.cli; print(sys.prefix, dma.cli.__file__)"
    said = subprocess.run(
        [tmp_path / "bin" / "python", "-Ic", told], capture_output=True, text=True, check=True
    )
    prefix, module = said.stdout.split()
    assert prefix == str(tmp_path)
    assert Path(module).is_relative_to(tmp_path)
    assert {path.name for path in (tmp_path / "lib").glob("*.so.1")} == {"libbpf.so.1", "libelf.so.1"}
    assert list((tmp_path / "lib").rglob("flows.bpf.o"))
    for program in bundle.PROGRAMS:
        assert (tmp_path / "bin" / program).read_text().startswith(f"#!{bundle.HOME}/bin/python -I\n")
        assert os.access(tmp_path / "bin" / program, os.X_OK)


def test_one_that_is_current_is_kept(bundles: Path) -> None:
    """It is made once, and made again in place of the old one when the installation has changed."""
    first = bundle.ensure(bundles)
    made = first.path.stat().st_mtime_ns
    assert bundle.ensure(bundles) == first
    assert first.path.stat().st_mtime_ns == made
    outdated = first.path.rename(bundles / f"{first.abi}.0123456789abcdef.tar.gz")
    assert bundle.ensure(bundles) == first
    assert not outdated.exists()
    assert [path.name for path in bundles.iterdir()] == [first.path.name]


def test_bundles_of_others_are_found(bundles: Path) -> None:
    """What another host has made for its Python lies beside this one's, by what it fits."""
    brought = bundles / "cpython-399-riscv64-linux-gnu.abc.tar.gz"
    brought.touch()
    found = bundle.available(bundles)
    assert found["cpython-399-riscv64-linux-gnu"] == (brought, "cpython-399-riscv64-linux-gnu", "abc")
    assert found[bundle.own_abi()] == bundle.ensure(bundles)
    brought.unlink()
