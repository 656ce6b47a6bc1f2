"""Reverse DNS against the name server that podman brings."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest

from dma import sockets
from dma.naming import pointers
from dma.naming.name_server import ReverseError, Server
from dma.naming.pointers import read
from dma.naming.resolvers import PORT
from dma.naming.reverse import QUEUE, ReverseDns, configured_servers
from tests.dma.capture.lab import CLIENT_V4, CLIENT_V6, SERVER_V4, Cable, within
from tests.dma.naming.places import calling
from tests.lab.consul import DNS, Consul
from tests.lab.dnsmasq import name_server as dnsmasq
from tests.lab.namespace import Namespace

AARDVARK = Path("/usr/lib/podman/aardvark-dns")
DEADLINE_S = 5.0
DATABASE_V4, DATABASE_V6, NOBODY = (
    ip_address("198.18.5.9"),
    ip_address("fd00:5::9"),
    ip_address("198.18.5.77"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that asks the server's namespace."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "resolv.conf").write_text(f"search shop\nnameserver {SERVER_V4}\n")
    return tmp_path


@contextmanager
def name_server(network: Cable, directory: Path) -> Iterator[None]:
    """A name server that knows the client and a database; it answers only those whom it knows."""
    if not AARDVARK.exists():
        pytest.skip(f"{AARDVARK} is not installed: apt-get install aardvark-dns")
    entries = f"c1 {CLIENT_V4} {CLIENT_V6} web\nc2 {DATABASE_V4} {DATABASE_V6} db,db-alias\n"
    (directory / "lab").write_text(f"{SERVER_V4}\n{entries}")
    command = [str(AARDVARK), "--config", str(directory), "--port", "53", "run"]
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{network.server}", *command], stderr=subprocess.DEVNULL
    )
    pid_file = directory / "aardvark.pid"
    try:
        process.wait(DEADLINE_S)  # it goes into the background, and listens a little later
        until(lambda: any(one.port == 53 for one in within(network.server, sockets.listeners)))
        yield
    finally:
        with suppress(FileNotFoundError):
            subprocess.run(["kill", pid_file.read_text()], check=True)


def until(condition: Callable[[], object]) -> None:
    """Wait for what the threads do."""
    deadline_s, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s
        pause.wait(0.02)


def test_names_are_found_behind_the_back(
    network: Cable, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The first look-up answers nothing and asks; later ones know the name, its source and how long it lasts."""
    with (
        name_server(network, tmp_path_factory.mktemp("dns")),
        closing(within(network.client, lambda: ReverseDns(partial(configured_servers, root)))) as resolver,
    ):
        begin_s = time.monotonic()
        assert resolver.lookup(calling(DATABASE_V4)) == resolver.lookup(calling(DATABASE_V6)) == ()
        assert time.monotonic() - begin_s < 0.05
        until(lambda: resolver.lookup(calling(DATABASE_V4)) and resolver.lookup(calling(DATABASE_V6)))
        assert {one.name for one in resolver.lookup(calling(DATABASE_V6))} == {"db", "db-alias"}
        assert all((one.expires_s or 0) > time.monotonic() for one in resolver.lookup(calling(DATABASE_V4)))
        assert resolver.changed() == {DATABASE_V4, DATABASE_V6}
        assert resolver.changed() == set()


def test_a_dead_server_costs_a_counter(root: Path, network: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers, a failure is counted once and remembered, and a look-up still does not wait."""
    monkeypatch.setattr(pointers, "TIMEOUT_S", 0.1)
    with closing(within(network.client, lambda: ReverseDns(partial(configured_servers, root)))) as resolver:
        assert resolver.lookup(calling(NOBODY)) == ()
        until(lambda: resolver.counters.failures)
        assert resolver.lookup(calling(NOBODY)) == ()
        assert (resolver.counters.failures, resolver.changed()) == (1, set())


def test_the_queue_is_bounded(root: Path, network: Cable) -> None:
    """More look-ups than the queue holds are dropped and counted, and each address is asked for once."""
    with closing(within(network.client, lambda: ReverseDns(partial(configured_servers, root)))) as resolver:
        for _ in range(2):
            for number in range(QUEUE + 40):
                resolver.lookup(calling(ip_address("198.18.5.0") + number))
        assert 36 <= resolver.counters.dropped <= 80


def test_a_server_that_failed_is_left_alone_for_a_while(network: Cable, tmp_path: Path) -> None:
    """Its failures are counted, the next server is asked, and the first is not waited for again at each question."""
    hosts = "".join(f"198.18.5.{number} host-{number}\n" for number in range(100, 110))
    servers = [Server(ip_address("198.18.5.66"), PORT), Server(ip_address(SERVER_V4), PORT)]
    addresses = [ip_address(f"198.18.5.{number}") for number in range(100, 110)]
    with (
        dnsmasq(Namespace(network.server), SERVER_V4, tmp_path, hosts=hosts),
        closing(within(network.client, lambda: ReverseDns(lambda: servers))) as resolver,
    ):
        resolver.lookup(calling(addresses[0]))
        until(lambda: resolver.lookup(calling(addresses[0])))
        begin_s = time.monotonic()
        until(lambda: len([one for one in addresses if resolver.lookup(calling(one))]) == len(addresses))
        assert time.monotonic() - begin_s < pointers.TIMEOUT_S * len(addresses) / 4


def test_consul_answers_by_dns(network: Cable, tmp_path: Path) -> None:
    """The DNS interface of a Consul, at its own port, tells which service is at an address."""
    with Consul(Namespace(network.server), SERVER_V4, tmp_path / "consul") as consul:
        consul.register("web", "198.18.7.1", 8080)
        servers = [Server(ip_address(SERVER_V4), DNS)]
        with closing(within(network.client, lambda: ReverseDns(lambda: servers))) as resolver:
            web = calling(ip_address("198.18.7.1"))
            until(lambda: [one.name for one in resolver.lookup(web)] == ["web.service.lab.consul"])


def test_that_there_is_no_name_holds_as_long_as_the_zone_says() -> None:
    """The answer lasts for the lesser of the start of authority's own time and its minimum, within bounds."""
    question = dns.message.make_query("5.0.18.198.in-addr.arpa", "PTR")
    for ttl_s, minimum_s, holds_s in ((900, 30, 30), (20, 900, 20), (1, 1, 10), (90_000, 90_000, 300)):
        answer = dns.message.make_response(question)
        answer.set_rcode(dns.rcode.NXDOMAIN)
        soa = f"ns. root. 1 2 3 4 {minimum_s}"
        answer.authority.append(dns.rrset.from_text("18.198.in-addr.arpa.", ttl_s, "IN", "SOA", soa))
        assert read(answer) == ((), holds_s)
    assert read(dns.message.make_response(question)) == ((), 60)


def test_names_last_as_long_as_they_are_said_to() -> None:
    """All host names of an answer count, for the least of their times; what is no host name does not."""
    question = dns.message.make_query("5.0.18.198.in-addr.arpa", "PTR")
    answer = dns.message.make_response(question)
    answer.answer.append(dns.rrset.from_text(question.question[0].name, 40, "IN", "CNAME", "5.zone.example."))
    answer.answer.append(dns.rrset.from_text("5.zone.example.", 30, "IN", "PTR", "DB.shop.", "x\\032y.shop."))
    assert read(answer) == (("db.shop",), 30)


def test_a_failure_is_no_answer() -> None:
    """A server that fails or refuses does not say that there is no name."""
    for code in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
        answer = dns.message.make_response(dns.message.make_query("5.0.18.198.in-addr.arpa", "PTR"))
        answer.set_rcode(code)
        with pytest.raises(ReverseError, match=dns.rcode.to_text(code)):
            read(answer)
