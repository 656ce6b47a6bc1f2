"""Detached children."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from idm.process import (
    MAX_LOG_BYTES,
    Process,
    find,
    identify,
    log_tail,
    marked,
    read_record,
    spawn,
    trim_log,
    write_record,
)
from tests.idm.until import until

SLEEPER = (sys.executable, "-S", "-c", "import signal; signal.pause()")


@pytest.fixture
def sleeper(tmp_path: Path) -> Process:
    """A child that does nothing until it is ended."""
    return spawn(tmp_path, "sleeper", SLEEPER)


def test_child_is_a_session_of_its_own_and_found_again(tmp_path: Path, sleeper: Process) -> None:
    """A child leads its own session, and its pid file leads to it."""
    with sleeper:
        assert os.getsid(sleeper.pid) == sleeper.pid
        found = find(tmp_path, "sleeper")
        assert found is not None
        with found[1] as again:
            assert (again.pid, again.start) == (sleeper.pid, sleeper.start)
        sleeper.end(grace_s=2.0)
        assert find(tmp_path, "sleeper") is None


def test_pid_used_anew_is_not_mistaken(tmp_path: Path, sleeper: Process) -> None:
    """A pid file whose start time is not the process's leads nowhere."""
    with sleeper:
        record = read_record(tmp_path, "sleeper")
        assert record is not None
        write_record(tmp_path, "sleeper", msgspec.structs.replace(record, start=record.start - 1))
        assert find(tmp_path, "sleeper") is None
        sleeper.end(grace_s=2.0)


def test_lost_pid_file_hides_no_child(tmp_path: Path, sleeper: Process) -> None:
    """A child whose parent was killed before it wrote the pid file is found by its mark."""
    with sleeper:
        (tmp_path / "sleeper.pid").unlink()
        # The kernel lets a parent go on some moments before its child's environment can be read.
        asyncio.run(until(lambda: marked(tmp_path)))
        assert [process.pid for process in marked(tmp_path)] == [sleeper.pid]
        assert [process.pid for process in marked(tmp_path, "sleeper")] == [sleeper.pid]
        assert marked(tmp_path, "sleep") == []
        sleeper.end(grace_s=2.0)
        assert marked(tmp_path) == []


def test_child_outlives_its_killed_parent(tmp_path: Path) -> None:
    """A child goes on after its parent was killed by SIGKILL, and can be ended by a stranger."""
    program = f"""
import pathlib, signal
from idm.process import spawn
spawn(pathlib.Path({str(tmp_path)!r}), "sleeper", {SLEEPER!r})
print("started", flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
    found = find(tmp_path, "sleeper")
    assert found is not None
    with found[1] as process:
        assert not process.ended()
        process.end(grace_s=2.0)
        assert process.ended()


def test_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """After the grace comes SIGKILL."""
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    with spawn(tmp_path, "stubborn", (sys.executable, "-c", stubborn)) as process:
        while "deaf" not in log_tail(tmp_path, "stubborn"):
            assert not process.ended(wait_s=0.05)
        process.end(grace_s=0.2)
        assert process.ended()


def test_ended_process_takes_signals_without_harm(sleeper: Process) -> None:
    """A signal to a process that has ended does nothing."""
    with sleeper:
        sleeper.end(grace_s=0)
        sleeper.signal(signal.SIGTERM)


def test_zombie_is_not_alive() -> None:
    """A process that ended and was not reaped is not found."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert identify(child.pid) is None


def test_log_is_bounded(tmp_path: Path) -> None:
    """A log above its bound is moved to one older file, and a writer that appends goes on in the empty one."""
    log = tmp_path / "big.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * (MAX_LOG_BYTES + 10))
        trim_log(log)
        writer.write(b"more\n")
    assert log.read_bytes() == b"more\n"
    assert (tmp_path / "big.log.1").stat().st_size == MAX_LOG_BYTES
    assert log_tail(tmp_path, "big") == "more"
