"""Names by reverse DNS, asked of the name servers that the watched machine itself uses."""

import queue
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from dma.flow import Address, Destination
from dma.naming import ptr
from dma.naming.cache import Cache
from dma.naming.method import Counters, Place
from dma.naming.name import CONFIDENCE, Name, Source
from dma.naming.resolvers import PORT, configured

THREADS = 2
QUEUE = 256
TIMEOUT_S = 1.0
GAP_S = 0.1
"""Between two questions of one thread: at most 20 a second in all."""
MIN_TTL_S, MAX_TTL_S, NEGATIVE_TTL_S = 10.0, 3600.0, 60.0
GRACE_S = 4.0
"""For which an expired name still stands while its successor is asked for."""
_MESSAGE_BYTES = 4096


class ReverseDns:
    """A cache in front of two threads that ask; closes.

    A look-up never waits: it answers with what is known and has the rest asked for. Failures count, and are remembered
    as no name for a minute. Look-ups for which the queue has no room are dropped, and asked again
    when they are looked up again. See ``dma.naming.method.Method``.
    """

    source = Source.REVERSE_DNS

    def __init__(self, root: Path, *, port: int = PORT) -> None:
        self.counters = Counters()
        self._root = root
        self._port = port
        self._cache = Cache(grace_s=GRACE_S)
        self._waiting: set[Address] = set()
        self._asked: queue.Queue[Address | None] = queue.Queue(QUEUE)
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

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """What is known; what is not, or no longer, is asked for."""
        address = destination.address
        if not self._cache.knows(Place(address)):
            self._ask(address)
        return self._cache.lookup(address, destination.port)

    def changed(self) -> set[Address]:
        """The addresses whose names changed since the last call."""
        return self._cache.changed()

    def _ask(self, address: Address) -> None:
        with self._lock:
            if address in self._waiting:
                return
            try:
                self._asked.put_nowait(address)
                self._waiting.add(address)
            except queue.Full:
                self.counters.dropped += 1

    def _work(self) -> None:
        while (address := self._asked.get()) is not None and not self._stopped.is_set():
            answer = self._resolve(address)
            self._keep(address, answer)
            self._stopped.wait(GAP_S)

    def _keep(self, address: Address, answer: ptr.Answer | None) -> None:
        found = answer.names if answer else ()
        ttl_s = min(max(answer.ttl_s, MIN_TTL_S), MAX_TTL_S) if answer and found else NEGATIVE_TTL_S
        until_s = time.monotonic() + ttl_s
        confidence = CONFIDENCE[self.source]
        names = [Name(name, self.source, confidence, until_s) for name in found]
        self._cache.settle(Place(address), names, until_s=until_s)
        with self._lock:
            self._waiting.discard(address)
            self.counters.failures += answer is None
            self.counters.answers += answer is not None

    def _resolve(self, address: Address) -> ptr.Answer | None:
        """Ask one server after the other; None when none of them gives an answer."""
        for server in configured(self._root):
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
