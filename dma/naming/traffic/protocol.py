"""Which protocol is spoken, by how its clients or its servers begin."""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from dma.naming.traffic import http, tls

_LENGTH = struct.Struct("!I")
_POSTGRESQL = struct.Struct("!II")  # length, version or request
_KAFKA = struct.Struct("!IHHIh")  # length, request, its version, correlation, length of the client's name
_MONGODB = struct.Struct("<IIII")  # length, request, response to, operation

# Version 3.0, and the requests for cancelling, TLS and GSSAPI, which come instead of it.
_POSTGRESQL_BEGINNINGS = frozenset({3 << 16, 80877102, 80877103, 80877104})
_KAFKA_METADATA, _KAFKA_VERSIONS, _KAFKA_NEWEST = 3, 18, 20
_MONGODB_QUERY, _MONGODB_MESSAGE = 2004, 2013
_MYSQL_VERSION = re.compile(rb"\x0a[0-9][\x20-\x7e]{2,60}\0")
_REDIS = re.compile(rb"\*[1-9][0-9]{0,4}\r\n\$[0-9]{1,9}\r\n|PING\r\n|AUTH ")
_MQTT = re.compile(rb"\x10[\x80-\xff]{0,3}[\x00-\x7f]\0(\x04MQTT|\x06MQIsdp)")
_CQL = re.compile(rb"[\x03-\x05]\0..[\x01\x05]\0", re.DOTALL)


class Speech(NamedTuple):
    """A protocol by the name of the services database, and what it begins with."""

    name: str
    begins: Callable[[bytes], object]


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(beginnings)


def _is_postgresql(data: bytes) -> bool:
    if len(data) < _POSTGRESQL.size:
        return False
    length, version = _POSTGRESQL.unpack_from(data)
    return 8 <= length <= 10_000 and version in _POSTGRESQL_BEGINNINGS


def _is_kafka(data: bytes) -> bool:
    if len(data) < _KAFKA.size:
        return False
    length, request, version, _correlation, name = _KAFKA.unpack_from(data)
    known = request in (_KAFKA_METADATA, _KAFKA_VERSIONS) and version <= _KAFKA_NEWEST
    return known and length + _LENGTH.size == len(data) and -1 <= name < length


def _is_mongodb(data: bytes) -> bool:
    if len(data) < _MONGODB.size:
        return False
    length, _request, response_to, operation = _MONGODB.unpack_from(data)
    return length == len(data) and not response_to and operation in (_MONGODB_QUERY, _MONGODB_MESSAGE)


def _is_mysql(data: bytes) -> bool:
    length = int.from_bytes(data[:3], "little") + 4
    return data[3:4] == b"\0" and length == len(data) and _MYSQL_VERSION.match(data, 4) is not None


CLIENTS = (
    Speech("http", http.is_request),
    Speech("postgresql", _is_postgresql),
    Speech("redis", _REDIS.match),
    Speech("amqp", _starts(b"AMQP\0", b"AMQP\3")),
    Speech("kafka", _is_kafka),
    Speech("mongodb", _is_mongodb),
    Speech("ssh", _starts(b"SSH-2.0-", b"SSH-1.99-")),
    Speech("mqtt", _MQTT.match),
    Speech("cassandra", _CQL.match),
    Speech("http2", _starts(b"PRI * HTTP/2.0\r\n")),
    Speech("tls", tls.is_hello),
)
SERVERS = (
    Speech("mysql", _is_mysql),
    Speech("ssh", _starts(b"SSH-2.0-", b"SSH-1.99-")),
    Speech("smtp", re.compile(rb"220[ -][^\r\n]{0,500}SMTP").match),
    Speech("ftp", re.compile(rb"220[ -][^\r\n]{0,500}(FTP|ftp)").match),
    Speech("imap", _starts(b"* OK ")),
    Speech("pop3", _starts(b"+OK ")),
    Speech("nats", _starts(b"INFO {")),
    Speech("vnc", _starts(b"RFB 00")),
)


def spoken_by_client(data: bytes) -> str | None:
    """The protocol that a client begins with, if it is one of the common ones."""
    return next((one.name for one in CLIENTS if one.begins(data)), None)


def spoken_by_server(data: bytes) -> str | None:
    """The protocol of a server that speaks first, if it is one of the common ones."""
    return next((one.name for one in SERVERS if one.begins(data)), None)
