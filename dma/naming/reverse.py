"""Names by reverse DNS, asked of the name servers that the watched machine itself uses."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from dma.flow import Address, Destination
from dma.naming.background import Background
from dma.naming.cache import Cache
from dma.naming.method import Counters, Place
from dma.naming.name import CONFIDENCE, Name, Source
from dma.naming.name_server import Answer, ReverseError, Server
from dma.naming.resolvers import PORT, configured

AT_ONCE = 4
QUEUE = 256
GAP_S = 0.05
"""Between two questions: at most 20 a second."""
FAILURE_TTL_S = 10.0
"""For which nobody asks again after a failure."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 30.0
"""For which a name server that failed is left alone, longer each time."""
GRACE_S = 4.0
"""For which an expired name still stands while its successor is asked for."""


class ReverseDns:
    """A cache in front of a few questions at a time; closes.

    A look-up never waits: it answers with what is known and has the rest asked for. Failures count, and are remembered
    for a while, as the name servers are that failed. Look-ups for which there is no room are dropped, and asked again
    when they are looked up again. ``servers`` says whom to ask. See ``dma.naming.method.Method``.
    """

    def __init__(self, servers: Callable[[], list[Server]], *, source: Source = Source.REVERSE_DNS) -> None:
        self.source = source
        self.counters = Counters()
        self._servers = servers
        self._cache = Cache(grace_s=GRACE_S)
        self._waiting: set[Address] = set()
        self._lock = threading.Lock()
        self._asked: asyncio.Queue[Address] = asyncio.Queue(QUEUE)
        self._pauses: dict[Server, _Pause] = {}
        self._next_s = 0.0
        self._background = Background(self._work(), name=source.value)

    def close(self) -> None:
        """End the thread; a question on its way is not waited for."""
        self._background.close()

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
            if len(self._waiting) >= QUEUE:
                self.counters.dropped += 1
                return
            self._waiting.add(address)
        self._background.call(partial(self._asked.put_nowait, address))

    async def _work(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE - 1):
                group.create_task(self._answer())
            await self._answer()

    async def _answer(self) -> NoReturn:
        while True:
            address = await self._asked.get()
            try:
                answer = await self._resolve(address)
            except ReverseError as e:
                self.counters.failures += 1
                self.counters.problem = str(e)
                answer = Answer((), FAILURE_TTL_S)
            else:
                self.counters.answers += 1
                self.counters.problem = ""
            self._keep(address, answer)

    def _keep(self, address: Address, answer: Answer) -> None:
        until_s = time.monotonic() + answer.ttl_s
        names = [Name(name, self.source, CONFIDENCE[self.source], until_s) for name in answer.names]
        self._cache.settle(Place(address), names, until_s=until_s)
        with self._lock:
            self._waiting.discard(address)

    async def _resolve(self, address: Address) -> Answer:
        """Ask one server after the other, but for those that failed of late."""
        problem = self.counters.problem or "there is no name server to ask: see /etc/resolv.conf"
        servers = self._servers()
        self._pauses = {server: self._pauses.get(server, _Pause()) for server in servers}
        for server in servers:
            pause = self._pauses.setdefault(server, _Pause())
            if not pause.over():
                continue
            await self._take_turn()
            try:
                # The library takes a tenth of a second to load: not before there is something to ask.
                from dma.naming.pointers import query

                answer = await query(server, address)
            except ReverseError as e:
                pause.lengthen()
                problem = str(e)
            else:
                pause.end()
                return answer
        raise ReverseError(problem)

    async def _take_turn(self) -> None:
        """Wait for this question's time."""
        now_s = time.monotonic()
        self._next_s = max(now_s, self._next_s + GAP_S)
        await asyncio.sleep(self._next_s - now_s)


class _Pause:
    """For how long a name server is left alone."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._length_s = FIRST_PAUSE_S

    def over(self) -> bool:
        return time.monotonic() >= self._until_s

    def end(self) -> None:
        self._until_s, self._length_s = 0.0, FIRST_PAUSE_S

    def lengthen(self) -> None:
        if self.over():  # else another question to the same server has failed just now
            self._until_s = time.monotonic() + self._length_s
            self._length_s = min(2 * self._length_s, LAST_PAUSE_S)


def configured_servers(root: Path) -> list[Server]:
    """The name servers of the watched machine, as its files say now."""
    return [Server(address, PORT) for address in configured(root)]
