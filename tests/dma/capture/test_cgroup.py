"""The cgroup plan against the running kernel: what programs do is counted exactly."""

import os
import re
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.capture.hooks import CGROUP, RELEASES, Kind
from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Capture, CaptureError, Failure, Loss, Transport
from tests.dma.capture.lab import (
    CLIENT_V4,
    MAPPED,
    NO_ROUTE,
    SERVER_V4,
    SERVER_V6,
    Cable,
    Caller,
    cable,
    compiled_with,
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


def test_no_route_is_pending_while_the_socket_lasts(caller: Caller, capture: Capture) -> None:
    """Where nobody shows how connect() returned, a socket that found no route tells by what becomes of it."""
    caller(f"start('a', v4, '{NO_ROUTE}', 80)")
    held = flow(capture, NO_ROUTE, 80)
    assert held
    assert (held.attempts, held.pending, held.failures) == (1, 1, {})
    caller("end('a')")
    ended = flow(capture, NO_ROUTE, 80)
    assert ended
    assert (ended.attempts, ended.pending, ended.failures) == (1, 0, {Failure.UNREACHABLE: 1})


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


def test_loopback_can_be_kept(network: Cable, caller: Caller) -> None:
    """A machine's calls to itself count if so set."""
    target, settings = Target(netns=network.client_netns), Settings(keep_loopback=True)
    with open_capture(target, plan="cgroup", settings=settings) as keeping:
        caller("call(v4, '127.0.0.1', 7318), call(v6, '::1', 7318)")
        assert {f.destination.address for f in keeping.flows()} == {
            ip_address("127.0.0.1"),
            ip_address("::1"),
        }


def test_namespaces_of_later(caller: Caller) -> None:
    """A capture of the whole machine sees calls from a namespace that was made after it was opened."""
    assert caller("1") == "1"
    with open_capture(Target(), plan="cgroup") as capture, cable(f"dml{os.getpid()}") as later:
        with Caller(later.client) as newcomer:
            newcomer(f"call(v4, '{SERVER_V4}', 7340)")
            newcomer(f"new(v4, udp).sendto(b'x', ('{SERVER_V4}', 7340))")
        found = flow(capture, SERVER_V4, 7340), flow(capture, SERVER_V4, 7340, Transport.UDP)
    assert [one and one.attempts for one in found] == [1, 1]


def test_kernel_without_ipv6(
    network: Cable, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sockets have no member for an IPv6 address, all of IPv4 is counted."""
    absent = compiled_with(tmp_path, {"skc_v6_daddr": "skc_v6_absent"})
    monkeypatch.setattr("dma.capture.core.OBJECT", absent)
    with open_capture(Target(netns=network.client_netns), plan="cgroup") as capture:
        assert not [probe for probe in capture.probes if probe.problem]
        caller(f"call(v4, '{SERVER_V4}', 7341), new(v4, udp).sendto(b'x', ('{SERVER_V4}', 7341))")
        assert [f.attempts for f in capture.flows()] == [1, 1]


def test_ended_connections_leave_room(network: Cable, caller: Caller) -> None:
    """Three quarters of the room for connections are always to be had, whatever was there before."""
    target, settings = Target(netns=network.client_netns), Settings(max_connections=8)
    with (
        open_capture(target, plan="cgroup", settings=settings) as capture,
        network.server_socket(socket.SOCK_STREAM, 7348) as server,
    ):
        for _ in range(20):
            caller(f"[start(n, v4, '{SERVER_V4}', 7348) for n in range(6)]")
            for _ in range(6):
                server.accept()[0].close()
            caller("[end(n) for n in range(6)]")
            # An end that the kernel skipped the program for is told when the last packets have come.
            ended = settled(capture, SERVER_V4, 7348, lambda f: not f.open)
        assert Loss.MAP_FULL not in capture.losses()
    assert (ended.attempts, ended.established, ended.pending, ended.failures) == (120, 120, 0, {})


def test_more_talks_than_are_followed(network: Cable, caller: Caller) -> None:
    """Connected UDP sockets that there is no room to follow are counted as lost, one by one."""
    target, settings = Target(netns=network.client_netns), Settings(max_peers=4)
    with open_capture(target, plan="cgroup", settings=settings) as capture:
        caller(f"[x.update({{n: new(v4, udp)}}) or x[n].connect(('{SERVER_V4}', 7345)) for n in range(10)]")
        full = settled(capture, SERVER_V4, 7345, lambda f: f.open == 4, Transport.UDP)
        assert capture.losses() == {Loss.MAP_FULL: 6}
        caller("[end(n) for n in range(10)]")
        ended = flow(capture, SERVER_V4, 7345, Transport.UDP)
    assert full.attempts == 4
    assert ended
    assert (ended.attempts, ended.open) == (4, 0)


def test_a_talk_outlives_a_clearing(caller: Caller, capture: Capture) -> None:
    """After clear() a connected UDP socket is still open, and counts as one attempt whether it lasts or ends."""
    caller(f"x.update(a=new(v4, udp)) or x['a'].connect(('{SERVER_V4}', 7346))")
    begun = settled(capture, SERVER_V4, 7346, lambda f: f.open, Transport.UDP)
    capture.clear()
    held = flow(capture, SERVER_V4, 7346, Transport.UDP)
    caller("end('a')")
    ended = flow(capture, SERVER_V4, 7346, Transport.UDP)
    assert held
    assert ended
    assert [(f.attempts, f.open) for f in (begun, held, ended)] == [(1, 1), (1, 1), (1, 0)]


def test_full_table(network: Cable, caller: Caller) -> None:
    """Attempts that the full table has no room for are counted as lost, one by one."""
    target, settings = Target(netns=network.client_netns), Settings(max_entries=8)
    with open_capture(target, plan="cgroup", settings=settings) as capture:
        caller(f"[call(v4, '{SERVER_V4}', port) for port in range(7400, 7420)]")
        caller(f"[new(v4, udp).sendto(b'x', ('{SERVER_V4}', port)) for port in range(7400, 7410)]")
        counted = sum(f.attempts for f in capture.flows())
        assert counted == 8
        assert capture.losses()[Loss.MAP_FULL] == 30 - counted


def test_more_connections_than_are_followed(network: Cable, caller: Caller) -> None:
    """Connections that there is no room to follow are counted as lost, one by one, and leave no gauge wrong."""
    target, settings = Target(netns=network.client_netns), Settings(max_connections=4)
    with (
        open_capture(target, plan="cgroup", settings=settings) as capture,
        network.server_socket(socket.SOCK_STREAM, 7344),
    ):
        caller(f"[start(n, v4, '{SERVER_V4}', 7344) for n in range(10)]")
        full = settled(capture, SERVER_V4, 7344, lambda f: f.established == 4)
        assert capture.losses() == {Loss.MAP_FULL: 6}
        caller("[end(n) for n in range(10)]")
        ended = settled(capture, SERVER_V4, 7344, lambda f: not f.open)
        caller(f"call(v4, '{SERVER_V4}', 7344)")
        again = flow(capture, SERVER_V4, 7344)
    assert (full.attempts, full.open, full.pending) == (4, 4, 0)
    assert (ended.attempts, ended.pending, ended.failures) == (4, 0, {})
    assert again
    assert again.attempts == 5


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
    """Without the optional hooks the plan says which are missing, and counts a UDP connect() as one attempt."""
    optional = ("tcp_destroy_sock", "inet_sk_error_report")
    # Refused as where the kernel has no such hook: this one knows no program of the kind.
    absent = {f'SEC("tp_btf/{name}")': f'SEC("tp_btf/absent_{name}")' for name in optional}
    absent |= {f'SEC("cgroup/{RELEASES}")': 'SEC("cgroup/getsockopt")'}
    monkeypatch.setattr("dma.capture.core.OBJECT", compiled_with(tmp_path, absent))
    with open_capture(Target(netns=network.client_netns), plan="cgroup") as capture:
        assert {probe.name for probe in capture.probes if probe.problem} == {*optional, RELEASES}
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
    optional = "inet_sk_error_report"
    older = compiled_without(tmp_path, optional)
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
    assert missing == [f"{optional}: this kernel has no tracepoint absent_{optional}: boot a newer one"]


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


def test_the_same_names_however_they_are_read(
    network: Cable, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's name is the same where its task is read as where it can only be probed, however long it is."""
    names, target = ("fifteen_letters", "eight888", "seven77", "x"), Target(netns=network.client_netns)
    with open_capture(target, plan="cgroup") as reading:
        monkeypatch.setattr("dma.capture.core.trusts_tasks", lambda: False)
        with open_capture(target, plan="cgroup") as probing:
            for name in names:
                caller(f"(open('/proc/self/comm', 'w').write('{name}'), call(v4, '{SERVER_V4}', 7347))")
            seen = [sorted(f.destination.command for f in capture.flows()) for capture in (reading, probing)]
    assert seen == [sorted(names)] * 2
