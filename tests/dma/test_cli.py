"""The agent's command line, run as a program."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dma.capture.lab import DEADLINE_S, SERVER_V4, Cable, Caller, cable

pytestmark = pytest.mark.kernel

DMA = Path(sys.executable).with_name("dma")
UNPRIVILEGED = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")


@pytest.fixture
def network() -> Iterator[Cable]:
    """A client's and a server's namespace of this test alone."""
    with cable(f"cli{os.getpid()}") as made:
        yield made


def dma(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the agent to its end."""
    return subprocess.run([*prefix, DMA, *arguments], capture_output=True, text=True, timeout=3 * DEADLINE_S)


@contextmanager
def watching(network: Cable, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The agent watching the client's namespace, which has printed its first array."""
    command = [str(DMA), "watch", "--interval", "0.1", "--netns", str(network.client_netns), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            if "--json" in arguments:
                assert json.loads(process.stdout.readline()) == []
            yield process
        finally:
            process.kill()


def test_json_is_one_array_per_interval(network: Cable) -> None:
    """Each interval prints one array in the exchange format, with what was called until then."""
    with (
        network.server_socket(socket.SOCK_STREAM, 8080),
        Caller(network.client) as caller,
        watching(network, "--json") as process,
    ):
        assert process.stdout
        caller(f"call(v4, '{SERVER_V4}', 8080), call(v4, '{SERVER_V4}', 8080), call(v4, '{SERVER_V4}', 7009)")
        for _ in range(20):
            if found := json.loads(process.stdout.readline()):
                break
    assert {(one["ip"], one["port"]) for one in found} == {(SERVER_V4, 8080), (SERVER_V4, 7009)}
    assert all(one["service"] for one in found)
    assert len(found) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_cleanly(network: Cable, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end the watch with exit code 0 and whole lines."""
    with watching(network, "--json") as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    assert all(json.loads(line) == [] for line in output.splitlines())


def test_closed_pipe_ends_cleanly(network: Cable) -> None:
    """When the reader of its output goes away, the watch ends without a word."""
    with watching(network, "--json") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.wait(DEADLINE_S)
        assert (process.returncode, process.stderr.read()) == (0, "")


def test_lines_where_there_is_no_terminal(network: Cable) -> None:
    """Without a terminal each change is one line; --duration ends the watch."""
    with Caller(network.client) as caller, watching(network, "--duration", "1") as process:
        assert process.stdout
        # The capture may not be open yet: call until it has seen one.
        lines = (_line_or_call(process, caller) for _ in range(100))
        line = next(filter(None, lines))
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert line.startswith(f"{SERVER_V4} tcp://{SERVER_V4}:7010 {Path(sys.executable).name} attempts=")
    assert (process.returncode, errors) == (0, "")


def _line_or_call(process: subprocess.Popen[str], caller: Caller) -> str:
    assert process.stdout
    caller(f"call(v4, '{SERVER_V4}', 7010)")
    ready, _, _ = select.select([process.stdout], [], [], 0.05)
    return process.stdout.readline() if ready else ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--netns", "/nonexistent"], "/nonexistent: no such file or directory: give a path such as"),
        (["--netns", "/etc/passwd"], "/etc/passwd is no network namespace: give a path such as"),
        (["--cgroup", "/nonexistent"], "/nonexistent: no such file or directory: give a directory below"),
        (["--cgroup", "/tmp"], "/tmp is no cgroup of the unified hierarchy: give a directory below"),
        (["--cgroup", "/tmp", "--netns", "/tmp"], "choose --netns or --cgroup"),
    ],
)
def test_wrong_targets(arguments: list[str], message: str) -> None:
    """What cannot be watched is one line that says what to give instead, and no traceback."""
    result = dma("watch", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_no_privilege() -> None:
    """Without privileges the cgroup plan says in one line which are needed; else the watch sees less, and says so."""
    refused = dma("watch", "--plan", "cgroup", prefix=UNPRIVILEGED)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" in refused.stderr
    degraded = dma("watch", "--json", "--count", "1", "--interval", "0.1", prefix=UNPRIVILEGED)
    assert degraded.returncode == 0, degraded.stderr
    assert isinstance(json.loads(degraded.stdout), list)
    assert "plan netlink, without short_connections: " in degraded.stderr


def test_doctor_without_privilege() -> None:
    """Without privileges the doctor names the one plan that works, and what the better one needs."""
    doctor = dma("doctor", "--json", prefix=UNPRIVILEGED)
    assert doctor.returncode == 0
    report = json.loads(doctor.stdout)
    plans = {one["subject"]: one for one in report["findings"] if one["subject"].startswith("plan ")}
    assert report["plan"] == "netlink"
    assert "CAP_BPF" in plans["plan cgroup by core"]["detail"]
    assert "short_connections" in plans["plan netlink"]["detail"]


def test_netlink_sees_without_privilege(network: Cable) -> None:
    """A process with no privilege at all sees the connections of its own namespace by the netlink plan."""
    inside = ("nsenter", f"--net=/run/netns/{network.client}", *UNPRIVILEGED)
    with (
        network.server_socket(socket.SOCK_STREAM, 8080),
        Caller(network.client) as caller,
        subprocess.Popen(
            [*inside, DMA, "watch", "--json", "--plan", "netlink", "--interval", "0.1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout
            assert json.loads(process.stdout.readline()) == []
            caller(f"start(1, v4, '{SERVER_V4}', 8080)")
            arrays = (json.loads(process.stdout.readline()) for _ in range(20))
            assert next(filter(None, arrays))[0]["port"] == 8080
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--count", "0"], ["--plan", "bogus"], ["extra"]])
def test_wrong_flags(arguments: list[str]) -> None:
    """Flags that make no sense end in a usage message."""
    result = dma("watch", *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
