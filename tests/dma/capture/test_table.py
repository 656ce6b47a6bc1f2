"""One table of what programs do and how it is counted: ``capture`` is each plan by each loader in turn.

STACKMEND_WAYS names them; without it they are those that any kernel at hand ought to have.
"""

import errno
import select
import socket
import struct
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.capture.plans import Way
from dma.flow import Capture, Failure, Flow, Transport
from tests.dma.capture.lab import (
    MAPPED,
    NO_ROUTE,
    SERVER_V4,
    SERVER_V6,
    Cable,
    Caller,
    flow,
    settled,
)

pytestmark = pytest.mark.kernel

OPEN_PORTS = {7101: 6, 7102: 5, 7103: 5}
CLOSED_PORTS = {7104: 4, 7105: 3}
UDP_PORTS = {7201: 8, 7202: 3}


@pytest.mark.parametrize(
    ("family", "host", "seen"),
    [
        pytest.param("v4", SERVER_V4, SERVER_V4, id="IPv4"),
        pytest.param("v6", SERVER_V6, SERVER_V6, id="IPv6", marks=pytest.mark.ipv6),
        pytest.param("v6", MAPPED, SERVER_V4, id="IPv4-mapped", marks=pytest.mark.ipv6),
    ],
)
def test_known_workload(
    network: Cable, caller: Caller, capture: Capture, family: str, host: str, seen: str
) -> None:
    """Of 23 connects to 5 destinations, 7 refused, and of 11 UDP sends, each is counted once."""
    with ExitStack() as stack:
        for port in OPEN_PORTS:
            stack.enter_context(network.server_socket(socket.SOCK_STREAM, port))
        for port, times in (OPEN_PORTS | CLOSED_PORTS).items():
            caller(f"[call({family}, '{host}', {port}) for _ in range({times})]")
        for port, times in UDP_PORTS.items():
            caller(f"[new({family}, udp).sendto(b'x', ('{host}', {port})) for _ in range({times})]")
    tcp = {f.destination.port: f for f in capture.flows() if f.destination.transport is Transport.TCP}
    udp = {
        f.destination.port: f.attempts for f in capture.flows() if f.destination.transport is Transport.UDP
    }
    assert {port: f.attempts for port, f in tcp.items()} == OPEN_PORTS | CLOSED_PORTS
    assert {port: f.established for port, f in tcp.items() if f.established} == OPEN_PORTS
    assert {port: f.failures for port, f in tcp.items() if f.failures} == {
        port: {Failure.REFUSED: times} for port, times in CLOSED_PORTS.items()
    }
    assert {tcp[port].last_errno for port in CLOSED_PORTS} == {errno.ECONNREFUSED}
    assert udp == UDP_PORTS
    assert {f.destination.address for f in capture.flows()} == {ip_address(seen)}
    assert not any(f.open or f.pending or f.cancelled for f in capture.flows())
    assert not capture.losses()


def test_no_answer_is_pending_then_timed_out(network: Cable, caller: Caller, capture: Capture) -> None:
    """A SYN without an answer is pending at once, and has timed out when the kernel gives up."""
    network.reject(7301, "drop")
    caller("x.update(a=new(v4, tcp)) or x['a'].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)")
    caller(f"x['a'].setblocking(False) or x['a'].connect_ex(('{SERVER_V4}', 7301))")
    waiting = flow(capture, SERVER_V4, 7301)
    assert waiting
    assert (waiting.attempts, waiting.pending, waiting.failures) == (1, 1, {})
    assert waiting.oldest_pending_ns == waiting.last_attempt_ns
    failed = settled(capture, SERVER_V4, 7301, lambda f: f.failures)
    assert (failed.pending, failed.failures, failed.last_errno) == (
        0,
        {Failure.TIMED_OUT: 1},
        errno.ETIMEDOUT,
    )
    assert failed.oldest_pending_ns == 0


def test_given_up_early_is_cancelled(network: Cable, caller: Caller, capture: Capture) -> None:
    """A caller that closes its socket before an answer cancels the attempt, and that is no failure."""
    network.reject(7302, "drop")
    caller(f"start('a', v4, '{SERVER_V4}', 7302)")
    caller("end('a')")
    given_up = flow(capture, SERVER_V4, 7302)
    assert given_up
    assert (given_up.cancelled, given_up.pending, given_up.failures) == (1, 0, {})


def test_socket_that_found_no_route_connects_elsewhere(
    network: Cable, caller: Caller, capture: Capture
) -> None:
    """After a connect() without a route, the same socket's next one is counted for its own destination."""
    with network.server_socket(socket.SOCK_STREAM, 7304):
        caller(f"start('a', v4, '{NO_ROUTE}', 80)")
        caller(f"x['a'].setblocking(True) or x['a'].connect_ex(('{SERVER_V4}', 7304))")
        first, second = flow(capture, NO_ROUTE, 80), flow(capture, SERVER_V4, 7304)
    assert first
    assert (first.pending, first.failures) == (0, {Failure.UNREACHABLE: 1})
    assert second
    assert (second.attempts, second.established, second.open, second.failures) == (1, 1, 1, {})


@pytest.mark.parametrize(
    ("verdict", "failure", "number"),
    [
        ("reject with icmpx type host-unreachable", Failure.UNREACHABLE, errno.EHOSTUNREACH),
        ("reject with icmpx type admin-prohibited", Failure.UNREACHABLE, errno.EHOSTUNREACH),
        ("reject with tcp reset", Failure.REFUSED, errno.ECONNREFUSED),
        ("reject with icmpx type port-unreachable", Failure.REFUSED, errno.ECONNREFUSED),
    ],
)
def test_rejections(
    network: Cable, caller: Caller, capture: Capture, verdict: str, failure: Failure, number: int
) -> None:
    """What a packet filter answers to a SYN is the failure that the caller sees."""
    network.reject(7305, verdict)
    assert caller(f"call(v4, '{SERVER_V4}', 7305)") == str(number)
    rejected = flow(capture, SERVER_V4, 7305)
    assert rejected
    assert (rejected.failures, rejected.last_errno) == ({failure: 1}, number)


def test_no_free_port(network: Cable, caller: Caller, capture: Capture) -> None:
    """Running out of local ports is a failure of another kind, not the caller's own giving up."""
    network.in_client("sysctl", "-q", "net.ipv4.ip_local_port_range=40000 40001")
    with network.server_socket(socket.SOCK_STREAM, 7306):
        results = caller(f"[start(n, v4, '{SERVER_V4}', 7306) for n in range(4)]")
        exhausted = settled(capture, SERVER_V4, 7306, lambda f: f.established == 2)
    assert results.count(str(errno.EADDRNOTAVAIL)) == 2
    assert (exhausted.established, exhausted.failures) == (2, {Failure.OTHER: 2})
    assert exhausted.last_errno == errno.EADDRNOTAVAIL


def test_open_follows_connections(network: Cable, caller: Caller, capture: Capture) -> None:
    """Open counts the connections there are, also when non-blocking, and whoever of the two ends them."""
    with network.server_socket(socket.SOCK_STREAM, 7307) as listener:
        caller(f"[start(n, v4, '{SERVER_V4}', 7307) for n in range(3)]")
        peers = [listener.accept()[0] for _ in range(3)]

        def open_is(count: int) -> Flow:
            return settled(capture, SERVER_V4, 7307, lambda f: f.open == count)

        open_is(3)
        caller("end(0)")
        open_is(2)
        peers[1].close()
        open_is(1)
        caller("end(1)")
        assert open_is(1).established == 3
        peers[2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peers[2].close()
        open_is(0)
        peers[0].close()
    ended = flow(capture, SERVER_V4, 7307)
    assert ended
    assert (ended.attempts, ended.established, ended.failures) == (3, 3, {})


def test_readable_for_what_is_urgent(network: Cable, caller: Caller, capture: Capture) -> None:
    """The capture polls readable for a first sighting and for a failure, and for nothing else."""

    def urgent() -> bool:
        return bool(select.select([capture], [], [], 0)[0]) and capture.drain() > 0

    with network.server_socket(socket.SOCK_STREAM, 7320):
        assert not urgent()
        caller(f"call(v4, '{SERVER_V4}', 7320)")
        assert urgent()
        caller(f"call(v4, '{SERVER_V4}', 7320)")
        assert not urgent()
    caller(f"call(v4, '{SERVER_V4}', 7320)")
    assert urgent()


def test_clear_keeps_what_is_open(network: Cable, caller: Caller, capture: Capture) -> None:
    """After clear() only connections that are still open remain, with counters that start anew."""
    with network.server_socket(socket.SOCK_STREAM, 7321):
        caller(f"start('a', v4, '{SERVER_V4}', 7321)")
        caller(f"call(v4, '{SERVER_V4}', 7321), call(v4, '{SERVER_V4}', 7322)")
        settled(capture, SERVER_V4, 7321, lambda f: f.established == 2)
        capture.clear()
        (kept,) = capture.flows()
        assert (kept.destination.port, kept.open, kept.attempts, kept.established) == (7321, 1, 0, 0)
        assert (kept.last_attempt_ns, kept.last_established_ns) == (0, 0)
        caller("end('a')")
        assert not capture.flows()
        caller(f"call(v4, '{SERVER_V4}', 7321)")
        again = flow(capture, SERVER_V4, 7321)
    assert again
    assert (again.attempts, again.established, again.open) == (1, 1, 0)
    assert again.last_attempt_ns > again.first_ns


def test_threads_are_counted_as_their_process(caller: Caller, capture: Capture) -> None:
    """A thread's calls go by its process's name, whatever the thread calls itself."""
    caller(
        "x.update(t=threading.Thread(target=lambda: (open('/proc/thread-self/comm', 'w').write('odd'), "
        f"call(v4, '{SERVER_V4}', 7323))))"
    )
    caller("x['t'].start() or x['t'].join()")
    threaded = flow(capture, SERVER_V4, 7323)
    assert threaded
    assert threaded.destination.command == Path(sys.executable).name[:15]


def test_fast_open(network: Cable, caller: Caller, capture: Capture) -> None:
    """A connection opened by its first datum is one attempt."""
    with network.server_socket(socket.SOCK_STREAM, 7324):
        caller(f"x.update(a=new(v4, tcp)) or x['a'].sendto(b'x', socket.MSG_FASTOPEN, ('{SERVER_V4}', 7324))")
        opened = settled(capture, SERVER_V4, 7324, lambda f: f.established)
    assert (opened.attempts, opened.established, opened.open) == (1, 1, 1)


def test_no_route_is_unreachable(caller: Caller, capture: Capture) -> None:
    """A connect() that fails before it sends anything is one failed attempt, be its socket closed or used again."""
    assert caller(f"call(v4, '{NO_ROUTE}', 80)") == str(errno.ENETUNREACH)
    caller(f"start('a', v4, '{NO_ROUTE}', 80) and x['a'].connect_ex(('{NO_ROUTE}', 80))")
    caller("end('a')")
    ended = flow(capture, NO_ROUTE, 80)
    assert ended
    assert (ended.attempts, ended.pending, ended.failures) == (3, 0, {Failure.UNREACHABLE: 3})


@pytest.mark.ipv6
def test_ipv6_only(caller: Caller, capture: Capture, way: Way) -> None:
    """A socket for IPv6 alone finds no way to an IPv4-mapped address."""
    caller("x.update(a=new(v6, tcp)) or option('a', socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)")
    assert caller(f"x['a'].connect_ex(('{MAPPED}', 7330))") == str(errno.ENETUNREACH)
    caller("end('a')")
    failed = flow(capture, SERVER_V4, 7330)
    if way.loader == "bcc":  # its compiler cannot read the bit that tells such sockets
        assert failed is None
    else:
        assert failed
        assert (failed.attempts, failed.failures) == (1, {Failure.UNREACHABLE: 1})


def test_socket_used_again(network: Cable, caller: Caller, capture: Capture) -> None:
    """A socket that was connected, let go and connected elsewhere is two connections, of which one is open."""
    with network.server_socket(socket.SOCK_STREAM, 7331), network.server_socket(socket.SOCK_STREAM, 7332):
        caller(f"x.update(a=new(v4, tcp)) or x['a'].connect_ex(('{SERVER_V4}', 7331))")
        assert caller("dissolve('a')") == "0"
        caller(f"x['a'].connect_ex(('{SERVER_V4}', 7332))")
        first, second = flow(capture, SERVER_V4, 7331), flow(capture, SERVER_V4, 7332)
    assert first
    assert second
    assert (first.attempts, first.established, first.open, first.failures) == (1, 1, 0, {})
    assert (second.attempts, second.established, second.open) == (1, 1, 1)


@pytest.mark.ipv6
def test_happy_eyeballs(network: Cable, caller: Caller, capture: Capture) -> None:
    """Of two attempts at a name's addresses, the one that is given up for the faster is cancelled, and no failure."""
    network.reject(7333, "drop")
    with network.server_socket(socket.SOCK_STREAM, 7334):
        caller(f"start('slow', v6, '{SERVER_V6}', 7333)")
        caller(f"call(v4, '{SERVER_V4}', 7334)")
        caller("end('slow')")
        slow, fast = flow(capture, SERVER_V6, 7333), flow(capture, SERVER_V4, 7334)
    assert slow
    assert fast
    assert (slow.attempts, slow.cancelled, slow.failures) == (1, 1, {})
    assert (fast.attempts, fast.established) == (1, 1)


def test_io_uring(network: Cable, caller: Caller, capture: Capture) -> None:
    """A connection that io_uring made counts like any other."""
    with network.server_socket(socket.SOCK_STREAM, 7335):
        assert caller(f"connect_by_ring('a', '{SERVER_V4}', 7335)") == "0"
        made = settled(capture, SERVER_V4, 7335, lambda f: f.open)
    assert (made.attempts, made.established, made.open) == (1, 1, 1)
    assert made.destination.command == Path(sys.executable).name[:15]


def test_multipath_tcp(network: Cable, caller: Caller, capture: Capture) -> None:
    """A connection by multipath TCP is one attempt."""
    with network.server_socket(socket.SOCK_STREAM, 7336):
        assert caller(f"call(v4, '{SERVER_V4}', 7336, MPTCP)") == "0"
        ended = settled(capture, SERVER_V4, 7336, lambda f: f.established and not f.open)
    assert (ended.attempts, ended.established, ended.failures) == (1, 1, {})


@pytest.mark.ipv6
def test_neighbours(caller: Caller, capture: Capture) -> None:
    """Loopback, link-local, multicast and broadcast destinations are dropped."""
    caller("[call(v4, host, 7317) for host in ('127.0.0.1', '0.0.0.0', '127.9.9.9', '169.254.1.1')]")
    caller("[call(v6, host, 7317) for host in ('::1', '::', 'fe80::1', '::ffff:127.0.0.1')]")
    caller("new(v4, udp).sendto(b'x', ('127.0.0.1', 7317))")
    caller("x.update(b=new(v4, udp)) or option('b', socket.SOL_SOCKET, socket.SO_BROADCAST, 1)")
    caller("x['b'].bind(('198.18.5.1', 0)) or x['b'].sendto(b'x', ('255.255.255.255', 7317))")
    caller("x['b'].setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('198.18.5.1'))")
    caller("x['b'].sendto(b'x', ('239.1.1.1', 7317))")
    assert not capture.flows()
