"""How the services of the shop talk to each other: one link for each kind of server, HTTP, and statsd."""

import contextlib
import http.client
import select
import socket
import time
from typing import Any, NamedTuple

import psycopg2
import redis
from psycopg2 import extensions

from services.links import TIMEOUT_S, Address, Link


class Queue:
    """One connection to the queue: a line asked, a line answered."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self._answers = self._socket.makefile("r", encoding="utf-8", newline="\n")

    def ask(self, line: str) -> str:
        """Send one line and return the answer; ``OSError`` when there is none."""
        self._socket.sendall(f"{line}\n".encode())
        answer = self._answers.readline()
        if not answer:
            raise ConnectionResetError("the connection was closed")
        return answer.rstrip("\n")

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._socket.close()


def queue_link(address: Address, *, lifetime_s: float = float("inf")) -> Link[Queue]:
    """A link to the queue."""
    return Link(
        "queue",
        connect=lambda: Queue(address),
        ping=lambda queue: queue.ask("LEN"),
        close=Queue.close,
        errors=(OSError,),
        lifetime_s=lifetime_s,
    )


def cache_link(address: Address) -> Link[Any]:
    """A link to Redis."""
    return Link(
        "cache",
        connect=lambda: redis.Redis(
            address.host,
            address.port,
            socket_connect_timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            single_connection_client=True,
            decode_responses=True,
        ),
        ping=lambda cache: cache.ping(),
        close=lambda cache: cache.connection_pool.disconnect(),
        errors=(redis.RedisError, OSError),
    )


def _wait(connection: Any) -> None:
    """Wait for PostgreSQL, which has no time-out for an answer and none below 2 s for a connection."""
    deadline = time.monotonic() + TIMEOUT_S
    while (state := connection.poll()) != extensions.POLL_OK:
        reading = [connection] if state == extensions.POLL_READ else []
        writing = [connection] if state == extensions.POLL_WRITE else []
        left = max(0.0, deadline - time.monotonic())
        if not any(select.select(reading, writing, [], left)):
            raise TimeoutError("timed out")


extensions.set_wait_callback(_wait)


def _connect_db(address: Address) -> Any:
    connection = psycopg2.connect(
        host=address.host,
        port=address.port,
        user="shop",
        dbname="postgres",
        sslmode="disable",
        gssencmode="disable",
    )
    connection.autocommit = True
    return connection


def query(connection: Any, statement: str, *parameters: str) -> list[str]:
    """Run one statement and return its first column, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [row[0] for row in cursor] if cursor.description else []


def db_link(address: Address) -> Link[Any]:
    """A link to PostgreSQL."""
    return Link(
        "db",
        connect=lambda: _connect_db(address),
        ping=lambda connection: query(connection, "SELECT 'alive'"),
        close=lambda connection: connection.close(),
        errors=(psycopg2.Error, OSError),
    )


class Answer(NamedTuple):
    """What an HTTP server said."""

    status: int
    body: str


def http_call(address: Address, method: str, path: str, body: str = "") -> Answer:
    """One HTTP request over a connection of its own. Raises ``OSError`` when no whole answer comes."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        except http.client.HTTPException as error:
            raise OSError(f"bad answer from {address.host}: {error!r}") from error


class Statsd:
    """Counters sent over UDP; nobody waits for them, and a lost one is lost."""

    def __init__(self, address: Address, service: str) -> None:
        self._address = address
        self._service = service
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def count(self, name: str) -> None:
        """Add one to a counter of this service."""
        with contextlib.suppress(OSError):
            self._socket.sendto(f"{self._service}.{name}:1|c".encode(), self._address)

    def read(self, name: str) -> str:
        """Ask for a counter's value. Raises ``OSError`` when no answer comes."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(TIMEOUT_S)
            asking.sendto(f"{name}?".encode(), self._address)
            return asking.recv(512).decode()
