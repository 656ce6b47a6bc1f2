"""The table's datagrams: see ``tests.dma.capture.test_table``."""

import socket

import pytest

from dma.capture.plans import Way
from dma.flow import Capture, Failure, Transport
from tests.dma.capture.lab import CLIENT_V4, MAPPED, SERVER_V4, SERVER_V6, Cable, Caller, flow, settled

pytestmark = pytest.mark.kernel


def shows_datagrams(way: Way) -> bool:
    """Whether a plan sees the datagrams of connected sockets, and not only the sockets."""
    return way.plan != "cgroup"


@pytest.mark.parametrize(
    ("family", "host"),
    [
        ("v4", SERVER_V4),
        pytest.param("v6", SERVER_V6, marks=pytest.mark.ipv6),
        pytest.param("v6", MAPPED, marks=pytest.mark.ipv6),
    ],
)
def test_connected_udp(
    network: Cable, caller: Caller, capture: Capture, way: Way, family: str, host: str
) -> None:
    """Each datagram of a connected socket counts once, or the socket does, which is then open until it is closed."""
    seen = SERVER_V4 if host == MAPPED else host
    with network.server_socket(socket.SOCK_DGRAM, 7308):
        caller(f"x.update(a=new({family}, udp)) or x['a'].connect(('{host}', 7308))")
        assert flow(capture, seen, 7308, Transport.UDP) is None
        caller(f"[x['a'].send(b'x') for _ in range(3)] + [x['a'].sendto(b'x', ('{host}', 7308))]")
        caller(f"x['a'].sendto(b'x', ('{host}', 7309))")
        first = settled(capture, seen, 7308, lambda f: f.attempts, Transport.UDP)
        second = flow(capture, seen, 7309, Transport.UDP)
        caller("end('a')")
        ended = flow(capture, seen, 7308, Transport.UDP)
    counted = (4, 0) if shows_datagrams(way) else (1, 1)
    assert (first.attempts, first.open) == counted
    assert (first.established, first.failures) == (0, {})
    assert second
    assert (second.attempts, second.open) == (1, 0)
    assert ended
    assert (ended.attempts, ended.open) == (counted[0], 0)


def test_answered_datagram(network: Cable, caller: Caller, capture: Capture) -> None:
    """A question by a connected UDP socket that is closed with the answer is one attempt, however soon."""
    with network.server_socket(socket.SOCK_DGRAM, 7342) as server:
        for key, timestamps in (("a", 0), ("b", 1)):
            caller(f"x.update({key}=new(v4, udp)) or x['{key}'].connect(('{SERVER_V4}', 7342))")
            caller(f"option('{key}', socket.SOL_SOCKET, SO_TIMESTAMP, {timestamps}) or x['{key}'].send(b'x')")
            server.sendto(b"y", server.recvfrom(9)[1])
            caller(f"x['{key}'].recv(9) and end('{key}')")
        asked = flow(capture, SERVER_V4, 7342, Transport.UDP)
    assert asked
    assert (asked.attempts, asked.open, asked.failures) == (2, 0, {})


@pytest.mark.ipv6
def test_addresses_sorted(caller: Caller, capture: Capture) -> None:
    """Connecting UDP sockets only to see by which address they would go, as the C library does, counts nothing."""
    addresses = f"[(v4, '{SERVER_V4}', 443), (v6, '{SERVER_V6}', 443), (v4, '{SERVER_V4}', 0)]"
    caller(f"[sort_address(*one) for one in {addresses} * 3]")
    assert not capture.flows()


def test_refused_datagram(caller: Caller, capture: Capture) -> None:
    """A connected UDP socket whose peer's port is closed shows a refusal, however soon it is closed itself."""
    caller(f"x.update(a=new(v4, udp)) or x['a'].connect(('{SERVER_V4}', 7310))")
    caller("x['a'].send(b'x')")
    refused = settled(capture, SERVER_V4, 7310, lambda f: f.failures, Transport.UDP)
    caller("end('a')")
    ended = flow(capture, SERVER_V4, 7310, Transport.UDP)
    assert (refused.attempts, refused.failures) == (1, {Failure.REFUSED: 1})
    assert ended
    assert (ended.attempts, ended.open) == (1, 0)


def test_sendmmsg(network: Cable, caller: Caller, capture: Capture) -> None:
    """Each datagram of one sendmmsg() counts."""
    with network.server_socket(socket.SOCK_DGRAM, 7337):
        caller("x.update(a=new(v4, udp))")
        assert caller(f"send_many('a', '{SERVER_V4}', 7337, 5)") == "5"
        sent = flow(capture, SERVER_V4, 7337, Transport.UDP)
    assert sent
    assert sent.attempts == 5


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "addressed"])
def test_corked_datagrams(
    network: Cable, caller: Caller, capture: Capture, way: Way, *, connected: bool
) -> None:
    """Sends that make up one datagram together count once, and no more than their socket where that is what counts."""
    place = f"('{SERVER_V4}', 7338)"
    more = f"x[%r].{'send' if connected else 'sendto'}(b'x', %s{'' if connected else ', ' + place})"
    with network.server_socket(socket.SOCK_DGRAM, 7338):
        caller(f"x.update(a=new(v4, udp)) or {connected} and x['a'].connect({place})")
        for _ in range(2):
            caller("option('a', socket.IPPROTO_UDP, UDP_CORK, 1)")
            caller(f"[{more % ('a', 0)} for _ in range(3)]")
            caller("option('a', socket.IPPROTO_UDP, UDP_CORK, 0)")
        corked = settled(capture, SERVER_V4, 7338, lambda f: f.attempts, Transport.UDP).attempts
        caller(f"x.update(b=new(v4, udp)) or {connected} and x['b'].connect({place})")
        caller(
            f"[{more % ('b', 'socket.MSG_MORE')} for _ in range(3)] and {more % ('b', 0)} and {more % ('b', 0)}"
        )
        told = settled(capture, SERVER_V4, 7338, lambda f: f.attempts > corked, Transport.UDP).attempts
    once = connected and not shows_datagrams(way)
    assert (corked, told - corked) == ((1, 1) if once else (2, 2))


def test_segmented_datagrams(network: Cable, caller: Caller, capture: Capture) -> None:
    """A send that the kernel cuts into datagrams (UDP GSO) counts once."""
    with network.server_socket(socket.SOCK_DGRAM, 7339):
        caller("x.update(a=new(v4, udp)) or option('a', socket.IPPROTO_UDP, UDP_SEGMENT, 100)")
        assert caller(f"x['a'].sendto(bytes(1000), ('{SERVER_V4}', 7339))") == "1000"
        sent = flow(capture, SERVER_V4, 7339, Transport.UDP)
    assert sent
    assert sent.attempts == 1


def test_replies_of_a_udp_server(network: Cable, caller: Caller, capture: Capture) -> None:
    """What a UDP server answers to its clients makes them no dependencies of it."""
    caller("x.update(a=new(v4, udp)) or x['a'].bind(('0.0.0.0', 7311))")
    with Caller(network.server) as client:
        client(f"x.update(a=new(v4, udp)) or x['a'].sendto(b'x', ('{CLIENT_V4}', 7311))")
        caller("x['a'].sendto(b'y', x['a'].recvfrom(9)[1])")
        assert client("x['a'].recv(9)") == "b'y'"
    assert [f for f in capture.flows() if f.destination.port != 7311] == []
