"""Locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idm.errors import DeployError
from idm.lock import holder, lock


def _hold(path: Path) -> "subprocess.Popen[str]":
    program = f"""
import pathlib, sys
from idm.lock import lock
with lock(pathlib.Path({str(path)!r}), purpose="tests"):
    print("held", flush=True)
    sys.stdin.read()
"""
    return subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    """Only one process holds a lock; the other one is told its pid; a killed holder leaves it free."""
    path = tmp_path / "idm.lock"
    with _hold(path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(DeployError, match=f"process {other.pid} deploys"),
            lock(path, purpose="deploys", wait_s=0),
        ):
            pass
        found = holder(path)
        assert found is not None
        with found:
            assert found.pid == other.pid
        other.kill()
    assert holder(path) is None
    with lock(path, purpose="deploys"):
        assert path.read_text() == f"{os.getpid()}\n"


def test_unlinked_lock_locks_out_nobody(tmp_path: Path) -> None:
    """Once the file is gone, as after the stack went down, a new one is locked."""
    path = tmp_path / "idm.lock"
    with lock(path, purpose="deploys"):
        path.unlink()
        with lock(path, purpose="deploys"):
            assert path.exists()


def test_no_file_has_no_holder(tmp_path: Path) -> None:
    """A stack that was never deployed has no deployer."""
    assert holder(tmp_path / "idm.lock") is None
