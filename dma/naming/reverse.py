"""Names by reverse DNS, asked of the name servers that the watched machine itself uses."""

import queue
import secrets
import socket
import threading
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from dma.flow import Address
from dma.naming import ptr
from dma.naming.name import Name, Source
from dma.rooted import RootedError, read_rooted

RESOLV_CONF = Path("etc/resolv.conf")
PORT = 53
CONFIDENCE = 60

THREADS = 2
QUEUE = 256
CACHE = 4096
TIMEOUT_S = 1.0
GAP_S = 0.1
"""Between two questions of one thread: at most 20 a second in all."""
MIN_TTL_S, MAX_TTL_S, NEGATIVE_TTL_S = 10.0, 3600.0, 60.0
_MESSAGE_BYTES = 4096


class _Cached(NamedTuple):
    names: tuple[Name, ...]
    until_s: float


class ReverseDns:
    """A cache in front of two threads that ask; closes.

    A look-up never waits: it answers with what is known and has the rest asked for. Failures count, and are remembered
    as no name for a minute.
    """

    def __init__(self, root: Path, *, port: int = PORT) -> None:
        self.failures = 0
        self.dropped = 0
        """Look-ups for which the queue had no room; they are asked again when they are looked up again."""
        self._root = root
        self._port = port
        self._cache: dict[Address, _Cached] = {}
        self._waiting: set[Address] = set()
        self._asked: queue.Queue[Address | None] = queue.Queue(QUEUE)
        self._changed: set[Address] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"reverse-dns-{number}", daemon=True).start()

    def close(self) -> None:
        """Let the threads end; a question on its way is not waited for."""
        self._stopped.set()
        for _ in range(THREADS):
            with suppress(queue.Full):  # then they have work, and look at the event after it
                self._asked.put_nowait(None)

    def lookup(self, address: Address) -> tuple[Name, ...]:
        """What is known; an expired name still stands until its successor is known."""
        with self._lock:
            cached = self._cache.get(address)
            if (cached is None or cached.until_s < time.monotonic()) and address not in self._waiting:
                self._ask(address)
            return cached.names if cached else ()

    def changed(self) -> set[Address]:
        """The addresses whose names changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    def _ask(self, address: Address) -> None:
        try:
            self._asked.put_nowait(address)
            self._waiting.add(address)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        while (address := self._asked.get()) is not None and not self._stopped.is_set():
            answer = self._resolve(address)
            self._keep(address, answer)
            self._stopped.wait(GAP_S)

    def _keep(self, address: Address, answer: ptr.Answer | None) -> None:
        now_s = time.monotonic()
        until_s = now_s + (min(max(answer.ttl_s, MIN_TTL_S), MAX_TTL_S) if answer else NEGATIVE_TTL_S)
        if answer and not answer.names:
            until_s = now_s + NEGATIVE_TTL_S
        names = answer.names if answer else ()
        found = tuple(Name(name, Source.REVERSE_DNS, CONFIDENCE, until_s) for name in names)
        with self._lock:
            self._waiting.discard(address)
            self.failures += answer is None
            before = self._cache.pop(address, None)
            if len(self._cache) >= CACHE:
                del self._cache[next(iter(self._cache))]
            self._cache[address] = _Cached(found, until_s)
            if found != (before.names if before else ()):
                self._changed.add(address)

    def _resolve(self, address: Address) -> ptr.Answer | None:
        """Ask one server after the other; None when none of them gives an answer."""
        for server in self._servers():
            try:
                return self._query(server, address)
            except (OSError, ptr.PtrError):
                continue
        return None

    def _query(self, server: Address, address: Address) -> ptr.Answer:
        identifier = secrets.randbits(16)
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(TIMEOUT_S)
            asking.connect((str(server), self._port))
            asking.send(ptr.question(identifier, address))
            return ptr.answer(asking.recv(_MESSAGE_BYTES), identifier)

    def _servers(self) -> list[Address]:
        try:
            return name_servers(read_rooted(self._root, RESOLV_CONF))
        except RootedError:
            return []


def name_servers(text: str) -> list[Address]:
    """The first three name servers of a resolv.conf, as the C library takes them."""
    servers = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                with suppress(ValueError):
                    servers.append(ip_address(server))
    return servers[:3]
