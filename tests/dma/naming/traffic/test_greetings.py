"""What new connections begin with, seen by the kernel."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.capture.target import Target
from dma.naming.traffic import greetings
from dma.naming.traffic.greetings import GREETING, KNOBS, Greetings
from tests.dma.capture.lab import SERVER_V4, SERVER_V6, Cable, Caller
from tests.dma.capture.test_layout import compile_asserts
from tests.dma.naming.places import calling

PORT = 7200
HEADER = Path(__file__).parents[4] / "bpf" / "greeting.h"
REQUEST = r"b'GET / HTTP/1.1\r\nHost: Db.Shop:80\r\n\r\n'"
URL = "import http.client; http.client.HTTPConnection('{}', {}, timeout=0.3).request('GET', '/')"
UNPERMITTED = """
from dma.capture.target import Target
from dma.naming.traffic.greetings import Greetings
print(Greetings(Target()).counters.problem)
"""


@contextmanager
def opened(target: Target) -> Iterator[Greetings]:
    """The hooks on a target."""
    with closing(Greetings(target)) as made:
        assert made.counters.problem == ""
        yield made


@pytest.fixture
def traffic(network: Cable) -> Iterator[Greetings]:
    """The hooks on the client's namespace."""
    with opened(Target(netns=network.client_netns)) as made:
        yield made


def said(traffic: Greetings, host: str = SERVER_V4, port: int = PORT) -> set[tuple[str, str]]:
    """What is known of a place."""
    return {(one.source.value, one.name) for one in traffic.lookup(calling(ip_address(host), port=port))}


def connect(caller: Caller, *, key: str = "one", family: str = "v4", host: str = SERVER_V4) -> None:
    """Open a connection and keep it."""
    caller(f"start('{key}', {family}, '{host}', {PORT})")
    assert caller(f"len(select.select([], [x['{key}']], [], 3)[1])") == "1"


@pytest.mark.kernel
def test_the_first_bytes_of_a_new_connection_are_seen(
    network: Cable, caller: Caller, traffic: Greetings
) -> None:
    """A destination is looked at once: later bytes, and connections soon after, cost the agent nothing."""
    with network.server_socket(socket.SOCK_STREAM, PORT):
        for family, host in (("v4", SERVER_V4), ("v6", SERVER_V6)):
            for key in ("one", "two", "three"):
                connect(caller, key=key, family=family, host=host)
                caller(f"[x['{key}'].send({REQUEST}) for _ in range(3)]")
            assert said(traffic, host) == {("http host", "db.shop"), ("greeting", "http")}
    assert (traffic.counters.answers, traffic.counters.failures) == (2, 0)
    assert traffic.changed() == {ip_address(SERVER_V4), ip_address(SERVER_V6)}


@pytest.mark.kernel
def test_a_destination_is_looked_at_again_after_a_while(
    network: Cable, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an address is used for may change."""
    monkeypatch.setattr(greetings, "AGAIN_S", 0)
    with (
        network.server_socket(socket.SOCK_STREAM, PORT),
        opened(Target(netns=network.client_netns)) as traffic,
    ):
        for key in ("one", "two"):
            connect(caller, key=key)
            caller(f"x['{key}'].send({REQUEST.replace('Db', key)})")
        assert said(traffic) >= {("http host", "one.shop"), ("http host", "two.shop")}


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ("openssl", "s_client", "-connect", "{}:{}", "-servername", "Db.Shop"),
            {("tls server name", "db.shop"), ("greeting", "tls")},
        ),
        (("psql", "host={} port={} connect_timeout=2", "-c", "select 1"), {("greeting", "postgresql")}),
        (("ssh", "-o", "ConnectTimeout=1", "-p", "{1}", "{0}"), {("greeting", "ssh")}),
        ((sys.executable, "-c", URL), {("greeting", "http")}),
    ],
)
def test_real_clients_are_understood(
    network: Cable, traffic: Greetings, command: tuple[str, ...], expected: set[tuple[str, str]]
) -> None:
    """What real clients begin with is named as it should be; a host that is but an address is no name."""
    filled = [part.format(SERVER_V4, PORT) for part in command]
    with network.server_socket(socket.SOCK_STREAM, PORT) as server:
        client = subprocess.Popen(
            ["nsenter", f"--net={network.client_netns}", *filled],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with server.accept()[0] as peer:
                peer.settimeout(5)
                assert peer.recv(1)
        finally:
            client.kill()
            client.wait(5)
        assert said(traffic) == expected


@pytest.mark.kernel
def test_a_server_that_speaks_first_is_heard(network: Cable, caller: Caller, traffic: Greetings) -> None:
    """Where the server begins, its words count, not what the client answers."""
    with network.server_socket(socket.SOCK_STREAM, PORT) as server:
        connect(caller)
        with server.accept()[0] as peer:
            peer.send(b"220 mail.shop ESMTP ready\r\n")
            assert caller("x['one'].recv(99) if select.select([x['one']], [], [], 3)[0] else ''")
            caller(f"x['one'].send({REQUEST})")
        assert said(traffic) == {("greeting", "smtp")}


@pytest.mark.kernel
def test_only_its_own_target_is_watched(network: Cable, caller: Caller, cgroup: Path) -> None:
    """Connections of another namespace, and of another cgroup, are not seen."""
    with (
        opened(Target(netns=network.client_netns)) as here,
        opened(Target(netns=Path("/run/netns", network.server))) as elsewhere,
        opened(Target(cgroup=cgroup)) as confined,
        network.server_socket(socket.SOCK_STREAM, PORT),
    ):
        connect(caller)
        caller(f"x['one'].send({REQUEST})")
        assert said(here)
        assert not said(elsewhere)
        assert not said(confined)
        with Caller(network.client, cgroup=cgroup) as member:
            connect(member)
            member(f"x['one'].send({REQUEST})")
            assert said(confined)


def test_without_privileges_it_says_so() -> None:
    """Where the kernel refuses the hooks there are no guesses, and one line why."""
    command = ["setpriv", "--bounding-set=-all", sys.executable, "-c", UNPERMITTED]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    assert "not permitted: run as root" in told
    assert len(told.splitlines()) == 1


def test_the_layout_is_the_headers() -> None:
    """The Python side's picture of the events and constants is the C side's."""
    places = {"place.daddr": 0, "place.dport": 16, "length": 20, "sender": 22, "bytes": GREETING.size}
    knobs = {"again_ns": 0, "netns": 8}
    compile_asserts(
        f"sizeof(struct greeting_knobs) == {KNOBS.size}",
        f"BY_SERVER == {greetings._BY_SERVER}",
        *(f"offsetof(struct greeting, {name}) == {at}" for name, at in places.items()),
        *(f"offsetof(struct greeting_knobs, {name}) == {at}" for name, at in knobs.items()),
        header=HEADER,
    )
