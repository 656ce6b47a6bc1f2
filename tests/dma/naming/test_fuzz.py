"""Bytes from strangers: whatever they are, there is no exception, no hang, and no growth.

Each example of Hypothesis is many inputs, mutated from real messages by its seed; ``make fuzz`` tries a million.
"""

import os
import random
import resource
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address

import dns.exception
import dns.message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dma.naming.bindings import Bindings
from dma.naming.cache import LIMIT
from dma.naming.dns_answer import DnsError
from dma.naming.dns_records import read_answer
from dma.naming.dns_socket import message_in
from dma.naming.name_server import ReverseError
from dma.naming.pointers import read as read_names
from dma.naming.traffic.greetings import said_by_client, said_by_server
from tests.dma.naming.test_dns_records import answering

INPUTS = int(os.environ.get("FUZZ_INPUTS", "10000"))
BATCH = 100
SLOW_S = 0.5
GROWTH_BYTES = 64 << 20
INTERESTING = (0, 1, 0x0C, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xFE, 0xFF)
"""Among them lengths at their limits, and compression pointers."""

ANSWERS = (
    answering(
        "www.shop", "A", "www.shop. 60 CNAME db.shop.", "db.shop. 30 A 198.18.0.5", "db.shop. 30 A 198.18.0.6"
    ),
    answering("db.shop", "AAAA", "db.shop. 60 AAAA fd00::5"),
    answering(
        "_pg._tcp.shop",
        "SRV",
        "_pg._tcp.shop. 60 SRV 0 0 5432 db.shop.",
        beside=("db.shop. 10 A 198.18.0.5",),
    ),
    answering("shop", "TXT", 'shop. 60 TXT "a b c"'),
    answering("shop", "HTTPS", "shop. 60 HTTPS 1 . alpn=h2 ipv4hint=198.18.0.5"),
    answering("5.0.18.198.in-addr.arpa", "PTR", "5.0.18.198.in-addr.arpa. 60 PTR db.shop."),
)


def hello(name: str) -> bytes:
    """A real TLS client's first bytes."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


GREETINGS = (
    hello("db.shop"),
    b"GET /a/b?c HTTP/1.1\r\nUser-Agent: x\r\nHost: db.shop:80\r\nAccept: */*\r\n\r\n",
    b"\0\0\0\x17\0\3\0\0user\0web\0\0",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
    b"\0\0\0\x10\0\x12\0\3\0\0\0\1\0\3app\0\1\1",
    b"I\0\0\0\x0a8.0.36\0" + bytes(65),
    b"220 mail.shop ESMTP ready\r\n",
    b"\x10\x10\0\4MQTT\4\2\0\x3c\0\4test",
)


def mutated(samples: Sequence[bytes], chance: random.Random) -> bytes:
    """A sample with some of its bytes changed, moved, repeated or missing."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.randrange(8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes((chance.choice(INTERESTING),))
            case 1:
                data[at : at + 1] = bytes((chance.randrange(256),))
            case 2:
                del data[at : at + chance.randrange(16)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(16))
            case 4:  # a record of another type, where one of an address is
                kind = chance.randrange(270).to_bytes(2, "big") + b"\0\1"
                data = bytearray(bytes(data).replace(b"\0\1\0\1", kind, chance.randrange(3)))
            case 5:
                data[at:at] = data[: chance.randrange(len(data) + 1)][:400]
            case _:
                del data[at:]
    return bytes(data)


def rounds(reader: Callable[[bytes], None], samples: Sequence[bytes]) -> None:
    """Give a reader mutated samples; the failing input is shown, with the seed that makes it."""
    for sample in samples:
        reader(sample)
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @settings(
        max_examples=-(-INPUTS // BATCH),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64 - 1))
    def inputs(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(BATCH):
            data = mutated(samples, chance)
            begin_s = time.process_time()
            try:
                reader(data)
            except Exception as e:  # whatever it is, it goes on, with the bytes that caused it
                e.add_note(f"input: {data!r}")
                raise
            assert time.process_time() - begin_s < SLOW_S, data

    inputs()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes < GROWTH_BYTES


def test_answers_of_name_servers() -> None:
    """Any bytes in place of a DNS answer are an answer or an error, and what is learned stays within its bounds."""
    bindings = Bindings()

    def read(data: bytes) -> None:
        with suppress(DnsError):
            bindings.learn(read_answer(data))
        with suppress(dns.exception.DNSException, ValueError, ReverseError):
            read_names(dns.message.from_wire(data))
        assert len(bindings.cache) <= LIMIT

    rounds(read, ANSWERS)
    assert bindings.cache.lookup(ip_address("198.18.0.5"), 80)


def test_packets() -> None:
    """Any bytes in place of an IP packet are taken apart, or not."""
    headers = (
        b"\x45" + bytes(8) + b"\x11" + bytes(10) + bytes(8),
        b"\x45" + bytes(8) + b"\x06" + bytes(10) + bytes(12) + b"\x50" + bytes(9),
        b"\x60" + bytes(5) + b"\x11" + bytes(33) + bytes(8),
    )

    def read(data: bytes) -> None:
        assert len(message_in(data)) <= len(data)

    rounds(read, [header + answer for header in headers for answer in ANSWERS])


def test_first_bytes_of_connections() -> None:
    """Any bytes that a connection begins with name a host and a protocol, or nothing."""

    def read(data: bytes) -> None:
        for one in (*said_by_client(data), *said_by_server(data)):
            assert 0 < len(one.name) <= 253

    rounds(read, GREETINGS)
    assert ("db.shop", "tls server name") in {
        (one.name, one.source.value) for one in said_by_client(GREETINGS[0])
    }
