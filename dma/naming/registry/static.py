"""Follows a list of services in a file or at a URL, in TOML or JSON.

JSON is an array of ``{"service": "routing-service", "ip": "198.18.0.10", "port": 8080}``; without a port all of the
address is the service's. TOML has the same in ``[[services]]``.
"""

import asyncio
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from dma.naming.method import Place
from dma.naming.name import Name, Source
from dma.naming.registry.follower import Feed, FeedError
from dma.naming.registry.places import placed
from dma.naming.registry.register import Register
from dma.naming.registry.settings import Access, Static
from dma.naming.registry.site import Site, open_site

ANSWER_S = 3.0
FILE_LIMIT = 16 << 20
RECORDS = 10_000
"""Taken in at most."""
_NOT_MODIFIED = 304


class Record(msgspec.Struct, frozen=True):
    """One service at one place."""

    service: str
    ip: str
    port: int | None = None


class _Document(msgspec.Struct, frozen=True):
    services: tuple[Record, ...]


def static_feed(settings: Static, root: Path = Path("/")) -> Feed:
    """What follows the list of the settings' location."""
    if settings.location.startswith(("http://", "https://")):
        return WebFeed(settings.location, settings.tls, root, interval_s=settings.interval_s)
    return FileFeed(settings.location, interval_s=settings.interval_s)


class FileFeed:
    """A file, read again when it is another or was written to. See ``dma.naming.registry.follower.Feed``."""

    source = Source.REGISTRY

    def __init__(self, path: str, *, interval_s: float) -> None:
        self._path = Path(path)
        self._interval_s = interval_s

    async def follow(self, register: Register) -> NoReturn:
        """Look at it every so often."""
        seen: tuple[int, ...] = ()
        while True:
            try:
                state = self._path.stat()
                now = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
                if now != seen:
                    take(register, self._path.name, self._read(state.st_size))
            except OSError as e:
                raise FeedError(
                    f"cannot read {self._path}: {(e.strerror or str(e)).lower()}: check the path"
                ) from e
            seen = now
            register.heard()
            await asyncio.sleep(self._interval_s)

    def _read(self, size: int) -> bytes:
        if size > FILE_LIMIT:
            raise FeedError(f"{self._path} is longer than {FILE_LIMIT >> 20} MiB: is it the right file?")
        return self._path.read_bytes()


class WebFeed:
    """A document at a URL, sent again when its entity tag is another. See ``dma.naming.registry.follower.Feed``."""

    source = Source.REGISTRY

    def __init__(self, url: str, access: Access, root: Path = Path("/"), *, interval_s: float) -> None:
        self._url = url
        self._root = root
        self._access = access
        self._interval_s = interval_s

    async def follow(self, register: Register) -> NoReturn:
        """Ask for it every so often."""
        async with open_site(self._url, self._access, self._root) as site:
            tag = ""
            while True:
                tag = await self._ask(site, tag, register)
                register.heard()
                await asyncio.sleep(self._interval_s)

    async def _ask(self, site: Site, tag: str, register: Register) -> str:
        """Take in what is new; returns the document's tag."""
        answer = await site.get(within_s=ANSWER_S, headers={"If-None-Match": tag} if tag else {})
        if answer.status == _NOT_MODIFIED:
            return tag
        take(register, self._url.partition("?")[0], answer.body)
        return answer.headers.get("ETag", "")


def take(register: Register, name: str, text: bytes) -> None:
    """Put down what a document lists, and nothing else; its name says whether it is TOML."""
    records = read_records(name, text)
    register.counters.dropped = max(0, len(records) - RECORDS)
    services: dict[str, dict[Place, Name]] = defaultdict(dict)
    for service, place, known in _places(register, records[:RECORDS]):
        services[service][place] = known
    for service, places in services.items():
        register.put(service, places)
    register.keep(services)
    register.synced = True


def read_records(name: str, text: bytes) -> tuple[Record, ...]:
    """What a document lists; raises :class:`FeedError`."""
    try:
        if name.endswith(".toml"):
            return msgspec.convert(tomllib.loads(text.decode()), _Document).services
        return msgspec.json.decode(text, type=tuple[Record, ...])
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.DecodeError) as e:
        raise FeedError(f"{name} is no list of services: {e}: write service, ip and port of each") from e


def _places(register: Register, records: tuple[Record, ...]) -> Iterator[tuple[str, Place, Name]]:
    for record in records:
        place = placed(record.ip, record.port)
        name = register.name(record.service, place) if place else None
        if place and name:
            yield record.service, place, name
