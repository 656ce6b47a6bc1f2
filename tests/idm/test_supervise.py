"""Children that are kept alive."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from idm.errors import DeployError
from idm.process import find, marked, read_record
from idm.supervise import Child, Supervisor
from tests.idm.until import until

READY = """
import os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"STATUS=up\\nREADY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""
NEVER_READY = "import signal; signal.pause()"
DYING = "import sys; sys.exit('no such probe')"


def _child(program: str, *, identity: str = "") -> Child:
    return Child("agent", (sys.executable, "-S", "-c", program), identity=identity, notifies=True)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run directory whose children are ended after the test."""
    yield tmp_path
    for process in marked(tmp_path):
        with process:
            process.end(grace_s=0)


def _pid(run: Path) -> int:
    record = read_record(run, "agent")
    assert record is not None
    return record.pid


async def _until_other_pid(run: Path, pid: int) -> int:
    def restarted() -> bool:
        record = read_record(run, "agent")
        return record is not None and record.pid != pid and record.ready

    await until(restarted)
    return _pid(run)


def test_dead_child_is_restarted(run: Path) -> None:
    """A child that is killed is started again at once and becomes ready again."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(_child(READY))
            await supervisor.ready(["agent"], timeout_s=10)
            pid = _pid(run)
            os.kill(pid, signal.SIGKILL)
            assert await _until_other_pid(run, pid) != pid
            await supervisor.end("agent")
            supervisor.release()

    asyncio.run(story())
    assert marked(run) == []
    assert not list(run.glob("*.pid"))


def test_ready_child_is_adopted_by_the_next_supervisor(run: Path) -> None:
    """Children go on when their supervisor ends; the next one takes over the same process and keeps it alive."""

    async def story() -> int:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(_child(READY))
            await supervisor.ready(["agent"], timeout_s=10)
            supervisor.release()
        return _pid(run)

    async def sequel(pid: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(_child(READY))
            await supervisor.ready(["agent"], timeout_s=10)
            assert _pid(run) == pid
            os.kill(pid, signal.SIGKILL)
            await _until_other_pid(run, pid)
            supervisor.release()

    first = asyncio.run(story())
    asyncio.run(sequel(first))
    assert find(run, "agent") is not None


@pytest.mark.parametrize("program", [READY, NEVER_READY])
def test_child_for_another_identity_or_never_ready_is_replaced(run: Path, program: str) -> None:
    """A running child that watches something else, or of which nobody knows whether it got ready, is not adopted."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(_child(program, identity="old"))
            await until(lambda: read_record(run, "agent"))
            if program == READY:
                await supervisor.ready(["agent"], timeout_s=10)
            supervisor.release()
        pid = _pid(run)
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(_child(READY, identity="new" if program == READY else "old"))
            await supervisor.ready(["agent"], timeout_s=10)
            assert _pid(run) != pid
            supervisor.release()

    asyncio.run(story())
    alive = marked(run)
    assert len(alive) == 1


def test_child_that_keeps_dying_is_told_with_its_log(run: Path) -> None:
    """Waiting for a child that dies again and again ends early, with the last lines of its log."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(_child(DYING))
            with pytest.raises(DeployError, match=r"agent is not ready: .*no such probe"):
                await supervisor.ready(["agent"], timeout_s=20)
            supervisor.release()

    asyncio.run(story())


def test_missing_program_is_told(run: Path) -> None:
    """A program that does not exist makes the child fail, not the supervisor."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(run, tasks)
            supervisor.keep(Child("agent", ("/nonexistent/agent",), notifies=True))
            with pytest.raises(DeployError, match="agent is not ready"):
                await supervisor.ready(["agent"], timeout_s=20)
            supervisor.release()

    asyncio.run(story())
