"""The agent as a process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from dm.v1 import agent_pb2
from dm.v1.agent_service_pb2 import ReportResponse
from tests.dma.capture.lab import CLIENT_V4, SERVER_V4, Cable, Caller
from tests.dma.recorder import Recorder, served

DEADLINE_S = 10.0
DMA = Path(sys.executable).with_name("dma")


class Agent:
    """A running agent, and the service manager that started it."""

    def __init__(self, process: subprocess.Popen[str], manager: socket.socket) -> None:
        self.process = process
        self._manager = manager

    def told(self) -> str:
        """What it told its service manager next."""
        return self._manager.recv(100).decode()

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; returns the exit code and what is on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, errors


@contextmanager
def agent(directory: Path, *arguments: str) -> Iterator[Agent]:
    """Start an agent under a service manager; ended in any case."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(DEADLINE_S)
        process = subprocess.Popen(
            [DMA, "run", "--stack", "shop", "--vcd", "web", *arguments],
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Agent(process, manager)
        finally:
            process.kill()
            process.communicate(timeout=DEADLINE_S)


def refused(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run an agent that must end by itself; returns its exit code and its last line."""
    done = subprocess.run(
        [DMA, "run", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_runs_without_a_manager_and_stops_when_told(
    network: Cable, tmp_path: Path, number: signal.Signals
) -> None:
    """An unreachable manager is no error: the agent is ready after two seconds, and ends within one when told."""
    with agent(tmp_path, "--dm", f"unix:{tmp_path}/dm.sock", "--netns", str(network.client_netns)) as running:
        begin_s = time.monotonic()
        assert running.told() == "READY=1"
        assert time.monotonic() - begin_s < 4
        begin_s = time.monotonic()
        code, errors = running.stop(number)
        assert running.told() == "STOPPING=1"
        assert time.monotonic() - begin_s < 1
        assert code == 0
        assert errors.count("manager lost") == 1, "an outage is one line, however many calls it takes"


WHO = ("--stack", "shop", "--vcd", "web")


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (WHO, 2, "--dm"),
        (("--dm", "unix:/tmp/x", "--stack", "shop"), 2, "--vcd"),
        ((*WHO, "--dm", "unix:/tmp/x", "--interval-ms", "1"), 2, "100<=x<=2000"),
        ((*WHO, "--dm", "unix:/tmp/x", "--root", "/no/such/root"), 2, "does not exist"),
        ((*WHO, "--dm", "unix:/tmp/x", "--plan", "magic"), 2, "magic"),
        ((*WHO, "--dm", "192.0.2.1:50051"), 1, "unix:/path/to/dm.sock"),
        ((*WHO, "--dm", "unix:/tmp/x", "--netns", "/no/such/netns"), 1, "/proc/PID/ns/net"),
        ((*WHO, "--dm", "unix:/tmp/x", "--netns", "/etc/hostname"), 1, "is no network namespace"),
        ((*WHO, "--dm", "unix:/tmp/x", "--cgroup", "/no/such/cgroup"), 1, "cgroup"),
    ],
)
def test_bad_flags_are_one_line(arguments: tuple[str, ...], code: int, hint: str) -> None:
    """What cannot work ends at once, with a line that says what to do and an exit code that is not 0."""
    got, line = refused(*arguments)
    assert got == code
    assert hint in line


def test_missing_privileges_are_one_line() -> None:
    """Without the capability to load programs the cgroup plan says which privileges it needs."""
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]
    done = subprocess.run(
        [*command, DMA, "run", *WHO, "--dm", "unix:/tmp/x", "--plan", "cgroup"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "root" in done.stderr


@pytest.mark.kernel
def test_reports_from_inside_a_namespace(network: Cable, caller: Caller, tmp_path: Path) -> None:
    """What one namespace calls, before and after the agent's start, arrives with names; a Reconnect ends it there."""

    async def scene(port: int) -> None:
        recorder = Recorder(generation=2)
        root = tmp_path / "root"
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "hosts").write_text(f"{SERVER_V4} db\n")
        where = ("--netns", str(network.client_netns), "--root", str(root), "--no-reverse-dns")
        async with served(recorder, tmp_path / "dm.sock") as target:
            with agent(tmp_path, "--dm", target, *where) as running:
                await recorder.until(recorder.complete)
                assert running.told() == "READY=1"
                older = recorder.known()[port]
                assert (older.open, older.attempts, older.names[0].name) == (1, 0, "db")
                assert ip_address(CLIENT_V4).packed in recorder.said("hello")[0].hello.presence.addresses
                caller(f"call(v4, '{SERVER_V4}', 9)")
                await recorder.until(lambda: 9 in recorder.known() and recorder.known()[9].failures)
                addresses = [ip_address(SERVER_V4).packed]
                await recorder.tell(ReportResponse(reconnect=agent_pb2.Reconnect(addresses=addresses)))
                await recorder.until(lambda: recorder.known()[port].open == 0)
                code, errors = running.stop(signal.SIGTERM)
                assert code == 0
                assert '"count":1' in errors

    with network.server_socket(socket.SOCK_STREAM) as server:
        port = server.getsockname()[1]
        caller(f"start('older', v4, '{SERVER_V4}', {port})")
        with server.accept()[0]:
            asyncio.run(scene(port))


def test_reports_by_the_netlink_plan(network: Cable, caller: Caller, tmp_path: Path) -> None:
    """The degraded plan says that it is, and what one namespace calls before and after its start arrives once each."""

    async def scene(port: int) -> None:
        recorder = Recorder(generation=2)
        where = ("--netns", str(network.client_netns), "--plan", "netlink", "--no-reverse-dns")
        async with served(recorder, tmp_path / "dm.sock") as target:
            with agent(tmp_path, "--dm", target, *where) as running:
                await recorder.until(recorder.complete)
                hello = recorder.said("hello")[0].hello
                assert (hello.plan, hello.loader) == ("netlink", "none")
                assert any(probe.problem for probe in hello.probes)
                caller(f"start('newer', v4, '{SERVER_V4}', {port})")
                await recorder.until(lambda: recorder.known()[port].open == 2)
                assert (recorder.known()[port].attempts, recorder.known()[port].established) == (1, 1)
                assert running.stop(signal.SIGTERM)[0] == 0

    with network.server_socket(socket.SOCK_STREAM) as server:
        port = server.getsockname()[1]
        caller(f"start('older', v4, '{SERVER_V4}', {port})")
        with server.accept()[0]:
            asyncio.run(scene(port))
