"""Names from the answers of a real name server to a real resolver."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.naming.bindings import GRACE_S
from dma.naming.passive import AT_ONCE, PER_SECOND, PassiveDns
from tests.dma.capture.lab import SERVER_V4, Cable, Caller, within
from tests.dma.naming.places import calling
from tests.lab.dnsmasq import NameServer, name_server
from tests.lab.namespace import Namespace

DEADLINE_S = 5.0
HOSTS = """
198.18.5.9 db.shop
fd00:5::9 db.shop
198.18.5.10 first.shop
198.18.5.10 second.shop
"""
MANY = "".join(f"198.18.6.{number} many.shop\n" for number in range(1, 101))
RECORDS = ("--cname=www.shop,alias.shop", "--cname=alias.shop,db.shop")
DATABASE = ip_address("198.18.5.9")
QUERY = """
import dns.message, dns.query
dns.query.udp(dns.message.make_query("{}", "{}"), "{}", port={}, timeout=5)
"""
FLOOD = 10_000
UNPERMITTED = """
from dma.naming.passive import PassiveDns
passive = PassiveDns()
print(passive.counters.problem)
passive.close()
"""


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    """A resolver that asks the server's namespace."""
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {SERVER_V4}\noptions timeout:1 attempts:2\n")
    return path


@pytest.fixture
def application(network: Cable, resolv_conf: Path) -> Iterator[Caller]:
    """A process in the client's namespace that resolves names by the C library."""
    with Caller(network.client, resolv_conf=resolv_conf) as process:
        yield process


@pytest.fixture
def passive(network: Cable) -> Iterator[PassiveDns]:
    """The method, listening in the client's namespace."""
    with closing(within(network.client, PassiveDns)) as opened:
        assert opened.counters.problem == ""
        yield opened


@contextmanager
def serving(network: Cable, directory: Path, *options: str, ttl_s: int = 60) -> Iterator[NameServer]:
    """The name server, in the server's namespace."""
    with name_server(
        Namespace(network.server), SERVER_V4, directory, *RECORDS, *options, hosts=HOSTS, ttl_s=ttl_s
    ) as server:
        yield server


def names(passive: PassiveDns, address: str, *, port: int = 5432) -> list[str]:
    """What an address is called now."""
    return sorted(one.name for one in passive.lookup(calling(ip_address(address), port=port)))


def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait for what comes by itself."""
    end_s, pause = time.monotonic() + deadline_s, threading.Event()
    while not condition():
        assert time.monotonic() < end_s
        pause.wait(0.02)


def test_a_name_is_known_when_the_application_knows_it(
    network: Cable, passive: PassiveDns, application: Caller, tmp_path: Path
) -> None:
    """As soon as a resolver has its answer, addresses of both families have the name that was asked for."""
    with serving(network, tmp_path):
        assert application("resolve('db.shop')") == "['198.18.5.9', 'fd00:5::9']"
        assert names(passive, "198.18.5.9") == names(passive, "fd00:5::9") == ["db.shop"]
        assert passive.changed() == {DATABASE, ip_address("fd00:5::9")}
        assert (passive.counters.failures, passive.counters.dropped) == (0, 0)


def test_the_head_of_a_chain_of_aliases_counts(
    network: Cable, passive: PassiveDns, application: Caller, tmp_path: Path
) -> None:
    """An address that was found through aliases has the name that the application asked for, and no other."""
    with serving(network, tmp_path):
        assert application("resolve('WWW.shop')") == "['198.18.5.9', 'fd00:5::9']"
        assert names(passive, "198.18.5.9") == ["www.shop"]


def test_an_address_keeps_all_names_that_it_was_asked_by(
    network: Cable, passive: PassiveDns, application: Caller, tmp_path: Path
) -> None:
    """Several names of one address are a set."""
    with serving(network, tmp_path):
        application("[resolve(name) for name in ('second.shop', 'first.shop', 'absent.shop')]")
        assert names(passive, "198.18.5.10") == ["first.shop", "second.shop"]


def test_a_service_record_names_a_port(
    network: Cable, passive: PassiveDns, application: Caller, tmp_path: Path
) -> None:
    """The port of an SRV record has the service's name as well as the host's own."""
    query = QUERY.format("_pg._tcp.shop", "SRV", SERVER_V4, 53)
    with serving(network, tmp_path, "--srv-host=_pg._tcp.shop,db.shop,6432"):
        subprocess.run(
            ["nsenter", f"--net={network.client_netns}", sys.executable, "-c", query], check=True, timeout=10
        )
        application("resolve('db.shop')")
        assert names(passive, "198.18.5.9", port=6432) == ["_pg._tcp.shop", "db.shop"]
        assert names(passive, "198.18.5.9", port=5432) == ["db.shop"]


def test_answers_over_tcp_count(
    network: Cable, passive: PassiveDns, application: Caller, tmp_path: Path
) -> None:
    """An answer that does not fit into a datagram is read when it comes again over TCP."""
    with serving(network, tmp_path) as server:
        server.say(MANY)
        assert application("len(resolve('many.shop'))") == "100"
        assert names(passive, "198.18.6.1") == names(passive, "198.18.6.100") == ["many.shop"]


def test_a_stub_resolver_on_loopback_counts(network: Cable, passive: PassiveDns, tmp_path: Path) -> None:
    """Answers that never leave the machine are seen, and each once."""
    stub = tmp_path / "resolv.conf"
    stub.write_text("nameserver 127.0.0.53\n")
    with (
        name_server(Namespace(network.client), "127.0.0.53", tmp_path, hosts="198.18.5.9 db.shop\n"),
        Caller(network.client, resolv_conf=stub) as application,
    ):
        application("socket.gethostbyname('db.shop')")
        assert names(passive, "198.18.5.9") == ["db.shop"]
        assert passive.counters.answers == 1


def test_other_ports_can_be_listened_to(network: Cable, tmp_path: Path) -> None:
    """Only the ports that were asked for are."""
    query = QUERY.format("db.shop", "A", SERVER_V4, 8600)
    command = ["nsenter", f"--net={network.client_netns}", sys.executable, "-c", query]
    with (
        serving(network, tmp_path, "--port=8600"),
        closing(within(network.client, lambda: PassiveDns((53, 8600)))) as both,
        closing(within(network.client, PassiveDns)) as one,
    ):
        subprocess.run(command, check=True, timeout=10)
        assert names(both, "198.18.5.9") == ["db.shop"]
        assert names(one, "198.18.5.9") == []


def test_no_name_outlives_its_time(
    network: Cable, passive: PassiveDns, application: Caller, tmp_path: Path
) -> None:
    """A name is gone at the latest five seconds after its time to live, and that is told."""
    with serving(network, tmp_path, ttl_s=1):
        application("resolve('db.shop')")
        answered_s = time.monotonic()
        assert names(passive, "198.18.5.9") == ["db.shop"]
        passive.changed()
        until(lambda: not names(passive, "198.18.5.9"), deadline_s=6)
        assert 1 + GRACE_S <= time.monotonic() - answered_s + 0.1 < 1 + 5
        until(lambda: DATABASE in passive.changed(), deadline_s=2)


def test_only_answers_pass_the_filter(network: Cable, passive: PassiveDns) -> None:
    """Questions, other ports and packets too short for a message never reach the agent; garbage is counted."""
    with (
        within(network.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
        network.server_socket(socket.SOCK_DGRAM, 53) as server,
        network.server_socket(socket.SOCK_DGRAM, 5300) as other,
    ):
        client.bind(("", 0))
        address = "::ffff:198.18.5.1", client.getsockname()[1]
        server.sendto(b"\0\0", address)
        server.sendto(b"\0\0\1\0" + bytes(40), address)
        other.sendto(b"\0\0\x81\x80" + bytes(40), address)
        server.sendto(b"\0\0\x81\x80\0\1" + b"\xff" * 40, address)
        until(lambda: passive.changed() or passive.counters.failures)
        assert (passive.counters.answers, passive.counters.failures) == (0, 1)


def test_a_flood_is_bounded(network: Cable, passive: PassiveDns) -> None:
    """Only so many a second are read, however many come, and look-ups stay quick; what was dropped leaves a doubt."""
    with (
        within(network.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
        network.server_socket(socket.SOCK_DGRAM, 53) as server,
    ):
        client.bind(("", 0))
        address = "::ffff:198.18.5.1", client.getsockname()[1]
        passive.changed()
        assert passive.counters.unnamed == 0
        first_s = time.monotonic()
        for _ in range(FLOOD):
            server.sendto(b"\0\0\x81\x80" + bytes(1000), address)
        begin_s = time.monotonic()
        passive.lookup(calling())
        end_s = time.monotonic()
        assert end_s - begin_s < 1.0
        assert passive.counters.failures <= AT_ONCE + (end_s - first_s + 1) * PER_SECOND
        assert passive.counters.dropped
        passive.changed()
        assert passive.counters.unnamed


def test_without_the_capability_it_says_so() -> None:
    """Where no packet socket is permitted there are no names, one line why, and nothing to close."""
    command = ["setpriv", "--bounding-set=-net_raw", sys.executable, "-c", UNPERMITTED]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    assert said == "no packet socket: operation not permitted: run as root, or grant CAP_NET_RAW\n"


def test_it_sleeps_while_nothing_comes(passive: PassiveDns) -> None:
    """Closed, it is gone at once; its thread waits for nothing but packets and that."""
    thread = next(one for one in threading.enumerate() if one.name == "passive-dns")
    begin_s = time.monotonic()
    passive.close()
    assert time.monotonic() - begin_s < 0.5
    assert not thread.is_alive()
