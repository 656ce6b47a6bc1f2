"""The netlink plan against the running kernel, without any BPF program."""

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.existing import find_existing
from dma.flow import Capture, CaptureError, Failure
from tests.dma.capture.lab import (
    CLIENT_V4,
    DEADLINE_S,
    MAPPED,
    SERVER_V4,
    SERVER_V6,
    Cable,
    Caller,
    flow,
    settled,
    within,
)

PATIENCE_MS = 1000


@pytest.fixture
def capture(network: Cable) -> Iterator[Capture]:
    """The netlink plan on the client's namespace."""
    settings = Settings(patience_ms=PATIENCE_MS)
    with open_capture(Target(netns=network.client_netns), plan="netlink", settings=settings) as opened:
        yield opened


def test_it_says_what_it_does_not_see(capture: Capture) -> None:
    """The plan names its only probe that works, and each thing that it is blind to as one that does not."""
    assert (capture.plan, capture.loader) == ("netlink", "none")
    assert [probe.name for probe in capture.probes if not probe.problem] == ["sock_diag"]
    assert {"short_connections", "failures", "datagrams"} <= {p.name for p in capture.probes if p.problem}
    assert all(probe.name.isidentifier() for probe in capture.probes), "names are keys of a log line"


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [("v4", SERVER_V4, SERVER_V4), ("v6", SERVER_V6, SERVER_V6), ("v6", MAPPED, SERVER_V4)],
    ids=["IPv4", "IPv6", "IPv4-mapped"],
)
def test_connections_are_counted_while_open(
    network: Cable, caller: Caller, capture: Capture, family: str, host: str, shown: str
) -> None:
    """A first connection wakes the reader; two are two attempts, and are let go one by one as they end."""
    with network.server_socket(socket.SOCK_STREAM) as server:
        port = server.getsockname()[1]
        caller(f"start(1, {family}, '{host}', {port})")
        assert select.select([capture], [], [], DEADLINE_S)[0], "a first sighting wakes the reader"
        caller(f"start(2, {family}, '{host}', {port})")
        two = settled(capture, shown, port, lambda f: f.open == 2)
        assert (two.attempts, two.established, two.failures, two.pending) == (2, 2, {}, 0)
        caller("end(1)")
        assert settled(capture, shown, port, lambda f: f.open == 1).attempts == 2
    assert not capture.losses()


def test_no_answer_is_pending_then_timed_out(network: Cable, caller: Caller, capture: Capture) -> None:
    """A SYN without an answer is pending since it was sent; given up early it is cancelled, later it has timed out."""
    network.reject(7301, "drop")
    before_ns = time.monotonic_ns()
    caller(f"start('early', v4, '{SERVER_V4}', 7301)")
    early = settled(capture, SERVER_V4, 7301, lambda f: f.pending)
    assert (early.attempts, early.failures) == (1, {})
    assert before_ns <= early.oldest_pending_ns <= time.monotonic_ns()
    caller("end('early')")
    assert settled(capture, SERVER_V4, 7301, lambda f: not f.pending).cancelled == 1
    capture.drain()
    caller(f"start('late', v4, '{SERVER_V4}', 7301)")
    settled(
        capture,
        SERVER_V4,
        7301,
        lambda f: f.pending and time.monotonic_ns() - f.oldest_pending_ns > PATIENCE_MS * 1_000_000,
    )
    caller("end('late')")
    late = settled(capture, SERVER_V4, 7301, lambda f: f.failures)
    assert (late.attempts, late.cancelled, late.failures) == (2, 1, {Failure.TIMED_OUT: 1})


def test_only_calls_of_others_count(network: Cable, caller: Caller, capture: Capture) -> None:
    """Neither what the agent itself opens nor what the machine accepts is among the flows."""
    caller("x.update(l=new(v4, tcp)), x['l'].bind(('', 7777)), x['l'].listen()")
    with network.server_socket(socket.SOCK_STREAM) as server, Caller(network.server) as outside:
        place = (SERVER_V4, server.getsockname()[1])
        own = within(network.client, lambda: socket.create_connection(place, DEADLINE_S))
        outside(f"start(1, v4, '{CLIENT_V4}', 7777)")
        caller("x.update(a=x['l'].accept())")
        caller(f"start(2, v4, '{SERVER_V4}', {place[1]})")
        assert settled(capture, *place, lambda f: f.open).attempts == 1
        assert [str(f.destination.address) for f in capture.flows()] == [SERVER_V4]
        own.close()


def test_older_connections_are_counted_once(network: Cable, caller: Caller) -> None:
    """Of three connections, one older than the capture, exactly that one is left for others to find."""
    with network.server_socket(socket.SOCK_STREAM) as server:
        port = server.getsockname()[1]
        caller(f"start(1, v4, '{SERVER_V4}', {port})")
        with open_capture(Target(netns=network.client_netns), plan="netlink") as capture:
            caller(f"start(2, v4, '{SERVER_V4}', {port}), start(3, v4, '{SERVER_V4}', {port})")
            settled(capture, SERVER_V4, port, lambda found: found.open == 2)
            older = within(network.client, lambda: list(find_existing(capture).flows()))
            assert [(str(one.destination.address), one.open) for one in older] == [(SERVER_V4, 1)]


def test_clearing_keeps_what_is_open(network: Cable, caller: Caller, capture: Capture) -> None:
    """After a clearing an open connection is still open, and its attempt is forgotten."""
    with network.server_socket(socket.SOCK_STREAM) as server:
        port = server.getsockname()[1]
        caller(f"start(1, v4, '{SERVER_V4}', {port})")
        settled(capture, SERVER_V4, port, lambda f: f.open)
        capture.clear()
        left = flow(capture, SERVER_V4, port)
        assert left
        assert (left.attempts, left.established, left.open) == (0, 0, 1)


def test_one_cgroup(network: Cable, caller: Caller, cgroup: Path) -> None:
    """Told to watch a cgroup, it counts what is called from there, and nothing from beside it."""
    with (
        network.server_socket(socket.SOCK_STREAM, 7501) as server,
        network.server_socket(socket.SOCK_STREAM, 7502),
    ):
        assert server
        target = Target(cgroup=cgroup)
        with (
            within(network.client, lambda: open_capture(target, plan="netlink")) as capture,
            Caller(network.client, cgroup=cgroup) as inside,
        ):
            caller(f"start(1, v4, '{SERVER_V4}', 7501)")
            inside(f"start(1, v4, '{SERVER_V4}', 7502)")
            settled(capture, SERVER_V4, 7502, lambda f: f.open)
            assert [f.destination.port for f in capture.flows()] == [7502]


@pytest.mark.parametrize("target", [Target(netns=Path("/etc/hostname")), Target(cgroup=Path("/tmp"))])
def test_wrong_targets(target: Target) -> None:
    """What is no namespace and no cgroup is refused with what to give instead."""
    with pytest.raises(CaptureError, match="give a"):
        open_capture(target, plan="netlink")


def test_only_this_plan_pays_for_its_library() -> None:
    """The command line does not import pyroute2."""
    program = "import sys, dma.cli; print('pyroute2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    assert done.stdout == "False\n"
