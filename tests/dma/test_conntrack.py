"""Translated destinations, by a real packet filter."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.conntrack import NETLINK_NETFILTER, NFGENMSG, Backends, Conntrack, Translation
from dma.flow import Address, Backend, Flow, Transport
from dma.naming.names import Names
from dma.netlink import Netlink, NetlinkError
from dma.observation import Observation
from tests.dma.capture.lab import CLIENT_V4, SERVER_V4, SERVER_V6, Cable, Caller, cable, within
from tests.dma.scripted import ScriptedCapture, flow

pytestmark = pytest.mark.kernel

DMA = Path(sys.executable).with_name("dma")
DIALLED_V4, DIALLED_V6 = "198.18.6.9", "fd00:6::9"
BEHIND = (Backend(ip_address(SERVER_V4), 8080),)
CT_DELETE = 1 << 8 | 2  # linux/netfilter/nfnetlink_conntrack.h
NAT = """
table inet nat {{
    chain output {{
        type nat hook output priority -100;
        ip daddr {v4} tcp dport 80 dnat ip to {backend_v4}:8080
        ip daddr {v4} udp dport 53 dnat ip to {backend_v4}:5353
        ip6 daddr {v6} tcp dport 80 dnat ip6 to [{backend_v6}]:8080
    }}
}}
"""


@pytest.fixture
def network() -> Iterator[Cable]:
    """Two namespaces; in the client's, a filter sends the dialled addresses on to the server's."""
    with cable(f"nat{os.getpid()}") as made:
        for dialled in (f"{DIALLED_V4}/32", f"{DIALLED_V6}/128"):
            made.in_client("ip", "route", "add", dialled, "dev", "eth0")
        rules = NAT.format(v4=DIALLED_V4, v6=DIALLED_V6, backend_v4=SERVER_V4, backend_v6=SERVER_V6)
        made.in_client("nft", rules)
        yield made


def udp_flow(address: str, port: int) -> Flow:
    """A flow of datagrams."""
    seen = flow(address, port)
    return seen._replace(destination=seen.destination._replace(transport=Transport.UDP))


def backends(network: Cable, known: Backends, *flows: Flow) -> list[tuple[Backend, ...]]:
    """Who is behind each, asked inside."""
    return [one.backends for one in within(network.client, lambda: known.known(flows, sources=()))]


def test_tells_what_was_dialled_from_who_answered(network: Cable) -> None:
    """Of calls to a translated address, TCP and UDP, IPv4 and IPv6, the backend is known; others have none."""
    with (
        network.server_socket(socket.SOCK_STREAM, 8080),
        network.server_socket(socket.SOCK_DGRAM, 5353),
        Caller(network.client) as caller,
    ):
        assert caller(f"call(v4, '{DIALLED_V4}', 80), call(v6, '{DIALLED_V6}', 80)") == "(0, 0)"
        assert caller(f"call(v4, '{SERVER_V4}', 8080)") == "0"
        caller(f"new(v4, udp).sendto(b'x', ('{DIALLED_V4}', 53))")
    flows = (flow(DIALLED_V4), flow(DIALLED_V6), udp_flow(DIALLED_V4, 53), flow(SERVER_V4, 8080))
    assert backends(network, Backends(), *flows) == [
        BEHIND,
        (Backend(ip_address(SERVER_V6), 8080),),
        (Backend(ip_address(SERVER_V4), 5353),),
        (),
    ]


def test_a_backend_that_does_not_answer_is_known(network: Cable) -> None:
    """Nobody has to answer for the backend to be known."""
    network.reject(8080, "drop")
    with Caller(network.client) as caller:
        caller(f"start('waits', v4, '{DIALLED_V4}', 80)")
        assert backends(network, Backends(), flow(DIALLED_V4)) == [BEHIND]


def test_a_backend_that_refuses_stays_known(network: Cable) -> None:
    """The kernel forgets a refused connection at once; who was behind its address stays known from earlier ones."""
    known = Backends()
    with Caller(network.client) as caller:
        with network.server_socket(socket.SOCK_STREAM, 8080):
            assert caller(f"call(v4, '{DIALLED_V4}', 80)") == "0"
        assert backends(network, known, flow(DIALLED_V4)) == [BEHIND]
        within(network.client, forget_connections)
        assert caller(f"call(v4, '{DIALLED_V4}', 80)") == "111"
        assert backends(network, Backends(), flow(DIALLED_V4)) == [()]
        known.refresh()
        assert backends(network, known, flow(DIALLED_V4)) == [BEHIND]


def test_the_agent_keeps_both_in_its_table(network: Cable) -> None:
    """An edge has the address that was dialled, and its backend from the first look on."""
    with (
        network.server_socket(socket.SOCK_STREAM, 8080),
        Caller(network.client) as caller,
        ScriptedCapture() as capture,
    ):
        assert caller(f"call(v4, '{DIALLED_V4}', 80)") == "0"
        capture.see(flow(DIALLED_V4, attempts=1))
        observation = within(network.client, lambda: Observation(capture, Names([])))
    (edge,) = observation.table.changed_since(0)
    assert (edge.destination.address, edge.backends) == (ip_address(DIALLED_V4), BEHIND)


def forget_connections() -> None:
    """Empty the namespace's table."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        netlink.do(CT_DELETE, NFGENMSG.pack(0, 0, 0))


class CountedTable(Conntrack):
    """Counts how often it is read."""

    reads = 0

    def translations(self) -> Iterator[Translation]:
        """Nothing is translated."""
        self.reads += 1
        return iter(())


def test_asks_for_new_destinations_only() -> None:
    """However often a destination is called, the table is read twice for it, and again for another one."""
    with CountedTable() as table:
        known = Backends(table)
        for attempts in range(10):
            known.known([flow(attempts=attempts)], sources=())
        assert table.reads == 2
        for _ in range(10):
            known.known([flow(), flow(port=81)], sources=())
        assert table.reads == 4


class BrokenTable(CountedTable):
    """Breaks off after the first of two backends, but for the third time."""

    def translations(self) -> Iterator[Translation]:
        """Calls that one address spreads over two machines."""
        self.reads += 1
        place = (Transport.TCP, ip_address(DIALLED_V4), 80)
        yield Translation(ip_address(CLIENT_V4), place, BEHIND[0])
        if self.reads != 3:
            raise NetlinkError("netlink: no buffer space available", errno=105)
        yield Translation(ip_address(CLIENT_V4), place, Backend(ip_address(SERVER_V4), 8081))


def test_a_table_that_could_not_be_read_is_read_again() -> None:
    """Half a table tells nothing, and a destination counts as asked for only when all was read."""
    with BrokenTable() as table:
        known = Backends(table)
        told = [
            known.known([flow(DIALLED_V4)], sources=[ip_address(CLIENT_V4)])[0].backends for _ in range(4)
        ]
    both = (BEHIND[0], Backend(ip_address(SERVER_V4), 8081))
    assert told == [(), (), both, both]


def test_a_table_around_counts_for_own_addresses_only(network: Cable) -> None:
    """Of the host's table only what comes from the watched machine's addresses is its own."""
    with network.server_socket(socket.SOCK_STREAM, 8080), Caller(network.client) as caller:
        assert caller(f"call(v4, '{DIALLED_V4}', 80)") == "0"
    with within(network.client, Conntrack) as around:

        def behind(*sources: Address) -> tuple[Backend, ...]:
            return Backends(around).known([flow(DIALLED_V4)], sources=sources)[0].backends

        assert behind(ip_address(CLIENT_V4)) == BEHIND
        assert behind(ip_address("198.18.5.77")) == ()


def test_the_watch_shows_both(network: Cable) -> None:
    """What is dialled stands with who is behind it, in one line."""
    command = [str(DMA), "watch", "--interval", "0.1", "--netns", str(network.client_netns)]
    with (
        network.server_socket(socket.SOCK_STREAM, 8080),
        Caller(network.client) as caller,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout
            # The capture may not be open yet: call until it has seen one.
            for _ in range(100):
                caller(f"call(v4, '{DIALLED_V4}', 80)")
                if select.select([process.stdout], [], [], 0.1)[0]:
                    break
            line = process.stdout.readline()
        finally:
            process.kill()
    assert f"tcp://{DIALLED_V4}:80 " in line
    assert line.endswith(f" behind={SERVER_V4}:8080\n")
