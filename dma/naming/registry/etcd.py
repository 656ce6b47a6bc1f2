"""Follows a prefix of etcd: a listing, then a watch from the listing's revision on, by the JSON gateway of its API v3.

A short question beside the watch tells by its silence that the member is out of reach, or has lost its cluster. When
revisions that the watch needs were compacted, as after a long break, all is listed anew.
"""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from dma.naming.name import Source
from dma.naming.registry.follower import FeedError
from dma.naming.registry.layout import Layout
from dma.naming.registry.register import Register
from dma.naming.registry.settings import Etcd
from dma.naming.registry.site import Site, open_site, read_secret

PAGE = 1000
KEYS = 10_000
"""Followed at most."""
PATIENCE_S = 2.0
BEAT_S = 3.0

T = TypeVar("T")


class _Token(msgspec.Struct, frozen=True):
    token: str


class _Header(msgspec.Struct, frozen=True):
    revision: int = 0


class _Pair(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes = b""


class _Page(msgspec.Struct, frozen=True):
    header: _Header
    kvs: tuple[_Pair, ...] = ()
    more: bool = False


class _Event(msgspec.Struct, frozen=True):
    kv: _Pair
    type: str = "PUT"


class _News(msgspec.Struct, frozen=True):
    events: tuple[_Event, ...] = ()
    canceled: bool = False
    compact_revision: int = 0


class _Line(msgspec.Struct, frozen=True):
    result: _News | None = None


class EtcdFeed:
    """One prefix. Every attempt takes the cluster's next member. See ``dma.naming.registry.follower.Feed``."""

    source = Source.ETCD

    def __init__(self, settings: Etcd, root: Path = Path("/")) -> None:
        self._settings = settings
        self._root = root
        self._layout = Layout(settings.layout)
        self._turn = 0

    async def follow(self, register: Register) -> NoReturn:
        """List, then watch; raises :class:`FeedError`, alone or in a group."""
        settings = self._settings
        url = settings.urls[self._turn % len(settings.urls)]
        self._turn += 1
        async with open_site(url, settings.tls, self._root) as site:
            prefix = _Prefix(site, self._layout, register, await self._login(site))
            await prefix.list()
            async with asyncio.TaskGroup() as group:
                group.create_task(prefix.beat())
                await prefix.watch()

    async def _login(self, site: Site) -> dict[str, str]:
        if not self._settings.user:
            return {}
        password = read_secret(self._settings.password_file)
        body = msgspec.json.encode({"name": self._settings.user, "password": password})
        answer = await site.post("/v3/auth/authenticate", body, within_s=PATIENCE_S)
        return {"Authorization": _decoded(answer, _Token).token}


class _Prefix:
    """The entries below a layout's prefix, while one member answers."""

    def __init__(self, site: Site, layout: Layout, register: Register, headers: dict[str, str]) -> None:
        self._site = site
        self._layout = layout
        self._register = register
        self._headers = headers
        self._start = layout.prefix.encode()
        self._end = _end_of(self._start)
        self._revision = 0
        self._keys: set[str] = set()

    async def list(self) -> None:
        """Take in all that there is, as of one moment."""
        self._keys.clear()
        self._register.counters.dropped = 0
        start, more = self._start, True
        while more:
            page = await self._range({"key": start, "limit": PAGE, "revision": self._revision})
            self._revision = self._revision or page.header.revision
            for pair in page.kvs:
                self._put(pair)
            more = page.more and bool(page.kvs)
            start = page.kvs[-1].key + b"\0" if page.kvs else start
        self._register.keep(self._keys)
        self._register.heard()
        self._register.synced = True

    async def watch(self) -> NoReturn:
        """Take in what changes."""
        request = {"key": self._start, "range_end": self._end, "start_revision": self._revision + 1}
        body = msgspec.json.encode({"create_request": {**request, "fragment": True}})
        lines = self._site.stream("/v3/watch", body, within_s=PATIENCE_S, headers=self._headers)
        async with aclosing(lines):
            async for line in lines:
                self._take(line)
        raise FeedError("etcd ended the watch: see its log")

    def _take(self, line: bytes) -> None:
        news = _decoded(line, _Line).result
        if news is None or news.canceled:
            reason = "what it needs was compacted" if news and news.compact_revision else "see etcd's log"
            raise FeedError(f"etcd ended the watch: {reason}")
        self._register.heard()
        for event in news.events:
            if event.type == "DELETE":
                self._forget(event.kv)
            else:
                self._put(event.kv)

    async def beat(self) -> NoReturn:
        """Ask what needs the whole cluster's consent."""
        while True:
            await asyncio.sleep(BEAT_S)
            await self._range({"key": self._start, "count_only": True})
            self._register.heard()

    async def _range(self, request: dict[str, bytes | int]) -> _Page:
        body = msgspec.json.encode({"range_end": self._end, **request})
        answer = await self._site.post("/v3/kv/range", body, within_s=PATIENCE_S, headers=self._headers)
        return _decoded(answer, _Page)

    def _put(self, pair: _Pair) -> None:
        key = pair.key.decode(errors="replace")
        if key not in self._keys and len(self._keys) >= KEYS:
            self._register.counters.dropped += 1
            return
        self._keys.add(key)
        instance = self._layout.read(pair.key, pair.value)
        name = self._register.name(instance.service, instance.place) if instance else None
        self._register.put(key, {instance.place: name} if instance and name else {})

    def _forget(self, pair: _Pair) -> None:
        key = pair.key.decode(errors="replace")
        self._keys.discard(key)
        self._register.put(key, {})


def _end_of(prefix: bytes) -> bytes:
    """The first key after all with this prefix."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind, strict=False)
    except msgspec.DecodeError as e:
        raise FeedError(
            f"no etcd answers: {e}: look at its urls, and that its version is 3.4 or later"
        ) from e
