"""Connections older than the capture."""

import time
from collections.abc import Callable
from ipaddress import ip_address
from socket import SOCK_STREAM, create_connection
from typing import TypeVar

import pytest

from dma.capture.plans import open_capture
from dma.capture.target import Target
from dma.existing import ExistingConnections, find_existing
from dma.flow import Capture, Transport
from dma.presence import addresses, listeners
from dma.reconnect import ALIVE_MS, destroy_connections
from dma.sockets import unanswered
from tests.dma.capture.lab import (
    CLIENT_V4,
    CLIENT_V6,
    MAPPED,
    SERVER_V4,
    SERVER_V6,
    Cable,
    Caller,
    settled,
    within,
)
from tests.dma.scripted import ScriptedCapture, flow

T = TypeVar("T")


def in_client(network: Cable, action: Callable[[], T]) -> T:
    """What an agent that entered the client's namespace would see."""
    return within(network.client, action)


def held(existing: ExistingConnections) -> dict[tuple[str, int], int]:
    """Open connections by address and port."""
    return {(str(one.destination.address), one.destination.port): one.open for one in existing.flows()}


def find(network: Cable, capture: Capture) -> ExistingConnections:
    """The namespace's older connections."""
    return in_client(network, lambda: find_existing(capture))


def test_older_connections_are_found_and_let_go(network: Cable, caller: Caller) -> None:
    """Connections of either family and mapped ones are found, and dropped one by one as they end."""
    with network.server_socket(SOCK_STREAM) as server, ScriptedCapture() as capture:
        port = server.getsockname()[1]
        caller(f"start(1, v4, '{SERVER_V4}', {port}), start(2, v6, '{MAPPED}', {port})")
        caller(f"start(3, v6, '{SERVER_V6}', {port})")
        accepted = [server.accept()[0] for _ in range(3)]
        existing = find(network, capture)
        assert held(existing) == {(SERVER_V4, port): 2, (SERVER_V6, port): 1}
        caller("end(1), end(3)")
        in_client(network, existing.refresh)
        assert held(existing) == {(SERVER_V4, port): 1, (SERVER_V6, port): 0}
        for one in accepted:
            one.close()


def test_accepted_connections_are_no_dependency(network: Cable, caller: Caller) -> None:
    """A connection through a port on which the machine listens belongs to whoever called it."""
    caller("x.update(l=new(v4, tcp)), x['l'].bind(('', 7777)), x['l'].listen()")
    with ScriptedCapture() as capture, Caller(network.server) as outside:
        outside(f"start(1, v4, '{CLIENT_V4}', 7777)")
        caller("x.update(a=x['l'].accept())")
        assert held(find(network, capture)) == {}


def test_the_agents_own_connections_are_no_dependency(network: Cable, caller: Caller) -> None:
    """Of two connections to one place, that of this process is left out."""
    with network.server_socket(SOCK_STREAM) as server, ScriptedCapture() as capture:
        port = server.getsockname()[1]
        with in_client(network, lambda: create_connection((SERVER_V4, port), 5)):
            caller(f"start(1, v4, '{SERVER_V4}', {port})")
            assert held(find(network, capture)) == {(SERVER_V4, port): 1}


@pytest.mark.kernel
def test_older_datagram_sockets_are_found_where_they_are_counted(network: Cable, caller: Caller) -> None:
    """A plan that counts connected UDP sockets finds those that are older, but none of a server's or its own."""
    caller("x.update(a=new(v4, udp), b=new(v6, udp), s=new(v4, udp), c=new(v4, udp))")
    caller(f"x['a'].connect(('{SERVER_V4}', 7501)), x['b'].connect(('{MAPPED}', 7501))")
    caller("[(x[key].setsockopt(1, 2, 1), x[key].bind(('', 7502))) for key in 'sc']")
    caller(f"x['c'].connect(('{SERVER_V4}', 40000))")
    with open_capture(Target(netns=network.client_netns), plan="cgroup") as capture:
        caller(f"x.update(d=new(v4, udp)), x['d'].connect(('{SERVER_V4}', 7501))")
        settled(capture, SERVER_V4, 7501, lambda found: found.open, Transport.UDP)
        existing = find(network, capture)
        assert held(existing) == {(SERVER_V4, 7501): 2}
        caller("end('a'), end('b')")
        in_client(network, existing.refresh)
        assert held(existing) == {(SERVER_V4, 7501): 0}


@pytest.mark.kernel
def test_what_the_capture_saw_is_not_counted_twice(network: Cable, caller: Caller) -> None:
    """Of three connections, one older than the capture, exactly that one is counted as older."""
    with network.server_socket(SOCK_STREAM) as server:
        port = server.getsockname()[1]
        caller(f"start(1, v4, '{SERVER_V4}', {port})")
        server.accept()[0].detach()
        with open_capture(Target(netns=network.client_netns)) as capture:
            caller(f"start(2, v4, '{SERVER_V4}', {port}), start(3, v4, '{SERVER_V4}', {port})")
            settled(capture, SERVER_V4, port, lambda found: found.open == 2)
            assert held(find(network, capture)) == {(SERVER_V4, port): 1}


def test_surplus_is_by_destination(network: Cable, caller: Caller) -> None:
    """What the capture holds open elsewhere takes nothing away from a destination that it never saw."""
    with network.server_socket(SOCK_STREAM) as server, ScriptedCapture() as capture:
        port = server.getsockname()[1]
        capture.see(flow(SERVER_V4, port + 1, open=5), flow(SERVER_V6, port, open=5))
        caller(f"start(1, v4, '{SERVER_V4}', {port})")
        with server.accept()[0]:
            assert held(find(network, capture)) == {(SERVER_V4, port): 1}


def test_presence_is_of_the_namespace(network: Cable, caller: Caller) -> None:
    """Addresses come without loopback and link-local ones; listeners of both families and transports are named."""
    caller("x.update(t=new(v4, tcp), u=new(v6, udp), p=new(v4, tcp), e=new(v4, udp))")
    caller("x['t'].bind(('', 7001)), x['t'].listen(), x['u'].bind(('::', 7002))")
    caller("x['p'].bind(('127.0.0.1', 7003)), x['p'].listen(), x['e'].connect(('127.0.0.1', 9))")
    found = in_client(network, addresses)
    assert found == (ip_address(CLIENT_V4), ip_address(CLIENT_V6))
    offered = [(one.transport.name, str(one.address), one.port) for one in in_client(network, listeners)]
    assert offered == [("TCP", "0.0.0.0", 7001), ("UDP", "::", 7002)]


def wait_for_silence(network: Cable) -> None:
    """Until all connections of the client have been without an answer for a while."""
    deadline = time.monotonic() + 5
    while in_client(network, lambda: min(silent_ms for _, silent_ms in unanswered())) < ALIVE_MS:
        assert time.monotonic() < deadline


def test_destroyed_connections_end_at_both_sides(network: Cable, caller: Caller) -> None:
    """Only connections to the named address end, and none that was answered just now.

    They are aborted for their holder, and reset for their peer.
    """
    with network.server_socket(SOCK_STREAM) as server:
        port = server.getsockname()[1]
        server.settimeout(5)
        caller(f"start('doomed', v4, '{SERVER_V4}', {port})")
        doomed, _ = server.accept()
        caller(f"start('spared', v6, '{SERVER_V6}', {port})")
        spared, _ = server.accept()
        wait_for_silence(network)
        caller(f"start('fresh', v4, '{SERVER_V4}', {port})")
        fresh, _ = server.accept()
        with doomed, spared, fresh:
            count = in_client(network, lambda: destroy_connections({ip_address(SERVER_V4)}))
            assert count == 1
            assert "103" in caller("x['doomed'].getsockopt(1, 4)")  # SO_ERROR is ECONNABORTED
            doomed.settimeout(5)
            with pytest.raises(ConnectionResetError):
                doomed.recv(1)
            spared.send(b"x")
            assert caller("select.select([x['spared']], [], [], 5) and x['spared'].recv(1)") == "b'x'"
            fresh.send(b"y")
            assert caller("select.select([x['fresh']], [], [], 5) and x['fresh'].recv(1)") == "b'y'"
