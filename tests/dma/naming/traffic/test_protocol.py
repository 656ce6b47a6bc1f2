"""How clients and servers begin to speak, by their protocols' specifications."""

import struct

import pytest

from dma.naming.traffic.protocol import spoken_by_client, spoken_by_server


def prefixed(body: bytes) -> bytes:
    """With its length before it, as many protocols have it."""
    return struct.pack("!I", len(body)) + body


MONGO_HELLO = b"\x00\x00\x00\x00\x00" + b"\x05\x00\x00\x00\x00"
MYSQL_GREETING = b"\x0a8.0.36\0" + bytes(40)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("postgresql", struct.pack("!II", 23, 3 << 16) + b"user\0web\0\0"),
        ("postgresql", struct.pack("!II", 8, 80877103)),
        ("redis", b"*1\r\n$4\r\nPING\r\n"),
        ("redis", b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"),
        ("amqp", b"AMQP\x00\x00\x09\x01"),
        ("amqp", b"AMQP\x00\x01\x00\x00"),
        ("amqp", b"AMQP\x03\x01\x00\x00"),
        ("kafka", prefixed(struct.pack("!HHIh", 18, 3, 1, 3) + b"app\0\1\1\0")),
        ("mongodb", struct.pack("<IIII", 16 + len(MONGO_HELLO), 1, 0, 2013) + MONGO_HELLO),
        ("ssh", b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        ("mqtt", b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test"),
        ("cassandra", b"\x04\x00\x00\x00\x05\x00\x00\x00\x00"),
        ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("http", b"POST /pay HTTP/1.1\r\nHost: pay.shop\r\n\r\n"),
        (None, b""),
        (None, b"hello"),
        (None, bytes(64)),
        (None, b"\xff" * 64),
    ],
)
def test_clients(name: str | None, data: bytes) -> None:
    """A client's first bytes tell its protocol."""
    assert spoken_by_client(data) == name


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("mysql", len(MYSQL_GREETING).to_bytes(3, "little") + b"\0" + MYSQL_GREETING),
        ("ssh", b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        ("smtp", b"220 mail.shop ESMTP Postfix\r\n"),
        ("ftp", b"220 (vsFTPd 3.0.3)\r\n"),
        ("imap", b"* OK [CAPABILITY IMAP4rev1] ready\r\n"),
        ("pop3", b"+OK ready\r\n"),
        ("nats", b'INFO {"server_id":"x"}\r\n'),
        ("vnc", b"RFB 003.008\n"),
        (None, b"220 hello\r\n"),
        (None, b""),
    ],
)
def test_servers(name: str | None, data: bytes) -> None:
    """The first bytes of a server that begins tell its protocol."""
    assert spoken_by_server(data) == name
