"""The cgroup plan against the running kernel: what programs do is counted exactly."""

import errno
import re
import select
import socket
import struct
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.capture.hooks import CGROUP, CONNECTED_DATAGRAMS, Kind
from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Capture, CaptureError, Failure, Flow, Loss, Transport
from tests.dma.capture.lab import (
    CLIENT_V4,
    MAPPED,
    NO_ROUTE,
    SERVER_V4,
    SERVER_V6,
    Cable,
    Caller,
    compiled_without,
    flow,
    settled,
    within,
)

pytestmark = pytest.mark.kernel

OPEN_PORTS = {7101: 6, 7102: 5, 7103: 5}
CLOSED_PORTS = {7104: 4, 7105: 3}
UDP_PORTS = {7201: 8, 7202: 3}

UNIT = Path(__file__).parents[3] / "idm" / "units" / "stackmend-dma.service"
# The plan that is chosen with the object named by the first argument, and what it does without.
OPENED = """
import sys
from pathlib import Path
from dma.capture import core
from dma.capture.plans import open_capture
from dma.capture.target import Target
core.OBJECT = Path(sys.argv[1])
with open_capture(Target()) as capture:
    print(capture.plan, *(f"{one.name}: {one.problem}" for one in capture.probes if one.problem), sep="\\n")
"""


@pytest.mark.parametrize(
    ("family", "host", "seen"),
    [("v4", SERVER_V4, SERVER_V4), ("v6", SERVER_V6, SERVER_V6), ("v6", MAPPED, SERVER_V4)],
    ids=["IPv4", "IPv6", "IPv4-mapped"],
)
def test_known_workload(
    network: Cable, caller: Caller, capture: Capture, family: str, host: str, seen: str
) -> None:
    """Of 23 connects to 5 destinations, 7 refused, and of 11 UDP sends, each is counted once."""
    listeners = [network.server_socket(socket.SOCK_STREAM, port) for port in OPEN_PORTS]
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
    for listener in listeners:
        listener.close()


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


def test_given_up_late_has_timed_out(network: Cable, caller: Caller) -> None:
    """A caller that gives up after the patience that is set has seen a time-out, as if the kernel had called it one."""
    network.reject(7303, "drop")
    target, settings = Target(netns=network.client_netns), Settings(patience_ms=100)
    with open_capture(target, plan="cgroup", settings=settings) as capture:
        caller(f"start('a', v4, '{SERVER_V4}', 7303) and select.select([], [], [], 0.15)")
        caller("end('a')")
        late = flow(capture, SERVER_V4, 7303)
    assert late
    assert (late.cancelled, late.failures) == (0, {Failure.TIMED_OUT: 1})


def test_no_route_is_unreachable(caller: Caller, capture: Capture) -> None:
    """A connect() that fails before it sends anything is one failed attempt, be its socket closed or used again."""
    assert caller(f"call(v4, '{NO_ROUTE}', 80)") == str(errno.ENETUNREACH)
    caller(f"start('a', v4, '{NO_ROUTE}', 80)")
    held = flow(capture, NO_ROUTE, 80)
    assert held
    assert (held.attempts, held.pending, held.failures) == (2, 1, {Failure.UNREACHABLE: 1})
    caller(f"x['a'].connect_ex(('{NO_ROUTE}', 80))")
    caller("end('a')")
    ended = flow(capture, NO_ROUTE, 80)
    assert ended
    assert (ended.attempts, ended.pending, ended.failures) == (3, 0, {Failure.UNREACHABLE: 3})


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
        exhausted = flow(capture, SERVER_V4, 7306)
    assert results.count(str(errno.EADDRNOTAVAIL)) == 2
    assert exhausted
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


@pytest.mark.parametrize(("family", "host"), [("v4", SERVER_V4), ("v6", SERVER_V6), ("v6", MAPPED)])
def test_connected_udp(network: Cable, caller: Caller, capture: Capture, family: str, host: str) -> None:
    """Each datagram of a connected socket counts once; connecting sends nothing and counts nothing."""
    seen = SERVER_V4 if host == MAPPED else host
    with network.server_socket(socket.SOCK_DGRAM, 7308):
        caller(f"x.update(a=new({family}, udp)) or x['a'].connect(('{host}', 7308))")
        assert flow(capture, seen, 7308, Transport.UDP) is None
        caller(f"[x['a'].send(b'x') for _ in range(3)] + [x['a'].sendto(b'x', ('{host}', 7308))]")
        caller(f"x['a'].sendto(b'x', ('{host}', 7309))")
        first, second = flow(capture, seen, 7308, Transport.UDP), flow(capture, seen, 7309, Transport.UDP)
    assert first
    assert (first.attempts, first.established, first.open, first.failures) == (4, 0, 0, {})
    assert second
    assert second.attempts == 1


def test_refused_datagram(caller: Caller, capture: Capture) -> None:
    """A connected UDP socket whose peer's port is closed shows a refusal."""
    caller(f"x.update(a=new(v4, udp)) or x['a'].connect(('{SERVER_V4}', 7310))")
    caller("x['a'].send(b'x')")
    refused = settled(capture, SERVER_V4, 7310, lambda f: f.failures, Transport.UDP)
    assert (refused.attempts, refused.failures) == (1, {Failure.REFUSED: 1})


def test_replies_of_a_udp_server(network: Cable, caller: Caller) -> None:
    """What a UDP server answers to its clients makes them no dependencies of it."""
    with (
        open_capture(Target(netns=Path("/run/netns", network.server)), plan="cgroup") as capture,
        Caller(network.server) as server,
    ):
        server("x.update(a=new(v4, udp)) or x['a'].bind(('0.0.0.0', 7311))")
        caller(f"x.update(a=new(v4, udp)) or x['a'].sendto(b'x', ('{SERVER_V4}', 7311))")
        server("x['a'].sendto(b'y', x['a'].recvfrom(9)[1])")
        assert caller("x['a'].recv(9)") == "b'y'"
        assert not capture.flows()


def test_other_namespaces_are_not_seen(network: Cable, caller: Caller, capture: Capture) -> None:
    """A capture of one network namespace sees nothing of another."""
    with Caller(network.server) as outside:
        outside(f"call(v4, '{CLIENT_V4}', 7312)")
        outside(f"new(v4, udp).sendto(b'x', ('{CLIENT_V4}', 7312))")
    assert not capture.flows()
    caller(f"call(v4, '{SERVER_V4}', 7312)")
    assert len(capture.flows()) == 1


def test_other_cgroups_are_not_seen(network: Cable, caller: Caller, cgroup: Path) -> None:
    """A capture of one cgroup sees what its processes do, and nothing of the others."""
    with (
        open_capture(Target(cgroup=cgroup), plan="cgroup") as capture,
        Caller(network.client, cgroup=cgroup) as inside,
        network.server_socket(socket.SOCK_STREAM, 7313),
    ):
        for process in (inside, caller):
            process(f"call(v4, '{SERVER_V4}', 7313) or call(v4, '{SERVER_V4}', 7314)")
            process(f"call(v4, '{NO_ROUTE}', 7313)")
            process(f"new(v4, udp).sendto(b'x', ('{SERVER_V4}', 7313))")
        assert sorted((f.attempts, f.established, sum(f.failures.values())) for f in capture.flows()) == [
            (1, 0, 0),
            (1, 0, 1),
            (1, 0, 1),
            (1, 1, 0),
        ]


def test_the_whole_machine_is_seen(network: Cable, caller: Caller) -> None:
    """With no target, the capture sees calls in every namespace, but not the agent's own."""
    with open_capture(Target(), plan="cgroup") as capture:
        caller(f"call(v4, '{SERVER_V4}', 7315)")

        def own() -> None:
            with socket.socket() as s, socket.socket(type=socket.SOCK_DGRAM) as u:
                s.connect_ex((SERVER_V4, 7316))
                u.sendto(b"x", (SERVER_V4, 7316))

        within(network.client, own)
        assert flow(capture, SERVER_V4, 7315)
        assert not flow(capture, SERVER_V4, 7316)
        assert not flow(capture, SERVER_V4, 7316, Transport.UDP)


def test_calls_to_oneself_and_to_neighbours(network: Cable, caller: Caller, capture: Capture) -> None:
    """Loopback, link-local, multicast and broadcast destinations are dropped; loopback can be kept."""
    caller("[call(v4, host, 7317) for host in ('127.0.0.1', '0.0.0.0', '127.9.9.9', '169.254.1.1')]")
    caller("[call(v6, host, 7317) for host in ('::1', '::', 'fe80::1', '::ffff:127.0.0.1')]")
    caller("new(v4, udp).sendto(b'x', ('127.0.0.1', 7317))")
    caller("x.update(b=new(v4, udp)) or x['b'].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)")
    caller("x['b'].bind(('198.18.5.1', 0)) or x['b'].sendto(b'x', ('255.255.255.255', 7317))")
    caller("x['b'].setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('198.18.5.1'))")
    caller("x['b'].sendto(b'x', ('239.1.1.1', 7317))")
    assert not capture.flows()
    target, settings = Target(netns=network.client_netns), Settings(keep_loopback=True)
    with open_capture(target, plan="cgroup", settings=settings) as keeping:
        caller("call(v4, '127.0.0.1', 7318), call(v6, '::1', 7318)")
        assert {f.destination.address for f in keeping.flows()} == {
            ip_address("127.0.0.1"),
            ip_address("::1"),
        }


def test_full_table(network: Cable, caller: Caller) -> None:
    """Attempts that the full table has no room for are counted as lost, one by one."""
    target, settings = Target(netns=network.client_netns), Settings(max_entries=8)
    with open_capture(target, plan="cgroup", settings=settings) as capture:
        caller(f"[call(v4, '{SERVER_V4}', port) for port in range(7400, 7420)]")
        caller(f"[new(v4, udp).sendto(b'x', ('{SERVER_V4}', port)) for port in range(7400, 7410)]")
        counted = sum(f.attempts for f in capture.flows())
        assert counted == 8
        assert capture.losses()[Loss.MAP_FULL] == 30 - counted


def test_full_ring(caller: Caller, capture: Capture) -> None:
    """Wake-ups that find the ring full are counted as lost, and the table is right all the same."""
    attempts = 0
    while Loss.RING_FULL not in capture.losses():
        caller(f"[call(v4, '{SERVER_V4}', 7319) for _ in range(500)]")
        attempts += 500
        assert attempts < 20_000
    full = flow(capture, SERVER_V4, 7319)
    assert full
    assert full.failures == {Failure.REFUSED: attempts}
    assert capture.drain() + capture.losses()[Loss.RING_FULL] == attempts + 1
    assert capture.drain() == 0


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


def test_two_captures_side_by_side(network: Cable, caller: Caller, capture: Capture) -> None:
    """Two captures see the same, and the end of one disturbs the other in nothing."""
    with open_capture(Target(netns=network.client_netns), plan="cgroup") as other:
        caller(f"call(v4, '{SERVER_V4}', 7325)")
        assert [f.attempts for f in other.flows()] == [f.attempts for f in capture.flows()] == [1]
    caller(f"call(v4, '{SERVER_V4}', 7325)")
    assert [f.attempts for f in capture.flows()] == [2]


def test_older_kernel(
    network: Cable, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the optional tracepoints the plan says which are missing, and counts a UDP connect() as one attempt."""
    optional = ("tcp_destroy_sock", "sock_send_length", "inet_sk_error_report")
    monkeypatch.setattr("dma.capture.core.OBJECT", compiled_without(tmp_path, *optional))
    with open_capture(Target(netns=network.client_netns), plan="cgroup") as capture:
        assert {probe.name for probe in capture.probes if probe.problem} == set(optional)
        caller(f"call(v4, '{SERVER_V4}', 7326)")
        for key, family, host in (("a", "v4", SERVER_V4), ("b", "v6", SERVER_V6), ("c", "v6", MAPPED)):
            caller(f"x.update({key}=new({family}, udp)) or x['{key}'].connect(('{host}', 7327))")
            caller(f"[x['{key}'].send(b'x') for _ in range(3) if not x['{key}'].getsockopt(1, 4)]")
        refused = flow(capture, SERVER_V4, 7326)
        datagrams = [flow(capture, host, 7327, Transport.UDP) for host in (SERVER_V4, SERVER_V6)]
    assert refused
    assert (refused.attempts, refused.failures) == (1, {Failure.REFUSED: 1})
    assert [f and f.attempts for f in datagrams] == [2, 1]


def test_older_kernel_with_the_capabilities_of_the_unit(tmp_path: Path) -> None:
    """The capabilities of the agent's unit suffice for the plan where an optional tracepoint is absent, too."""
    older = compiled_without(tmp_path, CONNECTED_DATAGRAMS)
    granted = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    bounds = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in " ".join(granted).split())
    opened = subprocess.run(
        ["setpriv", f"--bounding-set=-all,{bounds}", sys.executable, "-c", OPENED, str(older)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    plan, *missing = opened.stdout.splitlines()
    assert plan == "cgroup", opened.stderr
    assert missing == [
        f"{CONNECTED_DATAGRAMS}: this kernel has no tracepoint absent_{CONNECTED_DATAGRAMS}: boot a newer one"
    ]


def test_no_outcomes_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tracepoint that tells outcomes there is no cgroup plan."""
    monkeypatch.setattr("dma.capture.core.OBJECT", compiled_without(tmp_path, "inet_sock_set_state"))
    with pytest.raises(CaptureError, match="inet_sock_set_state"):
        open_capture(Target(), plan="cgroup")


def test_without_cgroup_hooks(network: Cable, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no cgroup2 file system is mounted, TCP is counted all the same, and the missing hooks are named."""
    monkeypatch.setattr("dma.capture.probed.cgroup2_root", lambda: None)
    with (
        open_capture(Target(netns=network.client_netns), plan="cgroup") as capture,
        network.server_socket(socket.SOCK_STREAM, 7328),
    ):
        assert {probe.name for probe in capture.probes if probe.problem} == CGROUP.of_kind(Kind.CGROUP)
        for family, host in (("v4", SERVER_V4), ("v6", SERVER_V6), ("v6", MAPPED)):
            caller(f"call({family}, '{host}', 7328)")
        counted = {str(f.destination.address): (f.attempts, f.established) for f in capture.flows()}
    assert counted == {SERVER_V4: (2, 2), SERVER_V6: (1, 1)}


def test_crowded_table_forgets_the_idle(
    network: Cable, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that fills up drops what is idle and keeps what is open, and so has room for what comes."""
    monkeypatch.setattr("dma.capture.table.IDLE_NS", 0)
    target, settings = Target(netns=network.client_netns), Settings(max_entries=8)
    with (
        open_capture(target, plan="cgroup", settings=settings) as capture,
        network.server_socket(socket.SOCK_STREAM, 7329),
    ):
        caller(f"start('a', v4, '{SERVER_V4}', 7329)")
        for first in range(7330, 7350, 2):
            caller(f"[call(v4, '{SERVER_V4}', port) for port in ({first}, {first + 1})]")
            capture.flows()
        kept = flow(capture, SERVER_V4, 7329)
        assert not capture.losses()
    assert kept
    assert (kept.attempts, kept.open) == (1, 1)
