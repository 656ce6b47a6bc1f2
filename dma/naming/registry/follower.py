"""Keeps up with one registry behind the back of whoever looks names up."""

import asyncio
import random
from typing import NoReturn, Protocol

from dma.flow import Address, Destination
from dma.logs import log
from dma.naming.background import Background
from dma.naming.cache import Cache
from dma.naming.method import Counters
from dma.naming.name import Name, Source
from dma.naming.registry.register import Register
from dma.naming.registry.settings import KEEP_S
from dma.tasks import first_of, heed_cancellation

FIRST_DELAY_S, LAST_DELAY_S = 0.2, 2.0


class FeedError(Exception):
    """A registry cannot be used now; the message is one line that says why and what to look at."""


class Feed(Protocol):
    """One kind of registry."""

    source: Source

    async def follow(self, register: Register) -> NoReturn:
        """Take in everything and then what changes; raises :class:`FeedError`, alone or in a group, when it cannot."""


class Follower:
    """A thread that follows a feed, and begins again after every failure. See ``dma.naming.method.Method``.

    While the registry is out of reach its names stay as they are, for ``keep_s`` at most: a registry that is restarted
    changes no edge. Begins in the network namespace of the calling thread.
    """

    def __init__(self, feed: Feed, *, keep_s: float = KEEP_S) -> None:
        self.source = feed.source
        self.counters = Counters()
        self._feed = feed
        self._keep_s = keep_s
        self._known = False
        self._cache = Cache()
        self._register = Register(feed.source, self._cache, self.counters)
        self._background = Background(self._follow(), name=self.source.value)

    @property
    def synced(self) -> bool:
        """Whether the names are all that the registry lists."""
        return self._register.synced

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """What is registered at the place, and under its address alone."""
        return self._cache.lookup(destination.address, destination.port)

    def changed(self) -> set[Address]:
        """The addresses whose names changed since the last call."""
        return self._cache.changed()

    def close(self) -> None:
        """End the thread."""
        self._background.close()

    async def _follow(self) -> NoReturn:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                await self._feed.follow(self._register)
            except* FeedError as group:
                self._fail(str(first_of(group)))
            except* Exception as group:
                # Whatever a registry sends, it must not leave names to stand unwatched.
                log.exception("registry misunderstood", registry=self.source.value)
                self._fail(f"misunderstood: {first_of(group)!r}: report it with the log")
            heed_cancellation()
            if self._register.synced:
                delay_s = FIRST_DELAY_S
            self._register.synced = False
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, LAST_DELAY_S)

    def _fail(self, problem: str) -> None:
        """Count it; a problem that lasts is one line."""
        if problem != self.counters.problem:
            log.warning("registry out of reach", registry=self.source.value, reason=problem)
        self.counters.failures += 1
        self.counters.problem = problem
        self._known = (self._known or self._register.synced) and self._register.silent_s() <= self._keep_s
        if not self._known:
            self.counters.unnamed += 1
            self._register.keep(())
