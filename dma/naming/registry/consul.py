"""Follows a Consul catalogue by blocking queries, so that a change arrives when it is made.

One query waits for the list of services, and one for each service's instances and their health. The first is short,
and tells by its silence that the server is out of reach; a failure of any begins all of them anew. All are asked for
consistent answers: a server that has just started, or become the leader, would else answer from a catalogue that it is
still reading, and names that are registered would go and come back.
"""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from dma.naming.method import Place
from dma.naming.name import Name, Source
from dma.naming.registry.follower import FeedError
from dma.naming.registry.places import placed
from dma.naming.registry.register import Register
from dma.naming.registry.settings import Consul
from dma.naming.registry.site import Site, open_site, read_secret

SERVICES = 150
"""Followed at most: a server takes 200 connections of one client."""
LIST_WAIT_S, SERVICE_WAIT_S = 4, 300
PATIENCE_S = 2.0
"""How much later than it was asked to a server may answer; it adds up to a sixteenth of the time by itself."""
PAUSE_S = 0.1
"""Between two answers to one query, whatever a server does."""
CRITICAL = 1
"""A failing instance is named after a healthy one that has taken its place, and before anything else."""

T = TypeVar("T")


class _Where(msgspec.Struct, frozen=True, rename="pascal"):
    address: str = ""
    port: int = 0


class _Proxied(msgspec.Struct, frozen=True, rename="pascal"):
    destination_service_name: str = ""


class _Service(msgspec.Struct, frozen=True, rename="pascal"):
    service: str
    address: str = ""
    port: int = 0
    kind: str = ""
    proxy: _Proxied | None = None
    tagged_addresses: dict[str, _Where] = {}


class _Check(msgspec.Struct, frozen=True, rename="pascal"):
    status: str = ""


class _Instance(msgspec.Struct, frozen=True, rename="pascal"):
    node: _Where
    service: _Service
    checks: tuple[_Check, ...] = ()


class ConsulFeed:
    """One datacentre's services. See ``dma.naming.registry.follower.Feed``."""

    source = Source.CONSUL

    def __init__(self, settings: Consul, root: Path = Path("/")) -> None:
        self._settings = settings
        self._root = root

    async def follow(self, register: Register) -> NoReturn:
        """Follow the list of services, and each that is on it."""
        token = read_secret(self._settings.token_file)
        headers = {"X-Consul-Token": token} if token else {}
        async with (
            open_site(self._settings.url, self._settings.tls, self._root, headers=headers) as site,
            asyncio.TaskGroup() as group,
        ):
            await _Catalogue(site, self._settings.datacentre, register, group).follow()


class _Catalogue:
    """The services that are followed now."""

    def __init__(self, site: Site, datacentre: str, register: Register, group: asyncio.TaskGroup) -> None:
        self._site = site
        self._datacentre = datacentre
        self._register = register
        self._group = group
        self._followed: dict[str, asyncio.Task[NoReturn]] = {}
        self._known: set[str] = set()

    async def follow(self) -> NoReturn:
        query = self._query("catalog/services", dict[str, list[str]], wait_s=LIST_WAIT_S)
        while True:
            services = sorted(await query.next())
            self._register.counters.dropped = max(0, len(services) - SERVICES)
            listed = set(services[:SERVICES])
            for gone in self._followed.keys() - listed:
                self._followed.pop(gone).cancel()
            for new in listed - self._followed.keys():
                self._followed[new] = self._group.create_task(self._follow_service(new))
            self._known &= listed
            self._register.keep(listed)
            self._register.heard()
            self._register.synced = self._known == listed

    async def _follow_service(self, service: str) -> NoReturn:
        path = f"health/service/{quote(service, safe='')}"
        query = self._query(path, list[_Instance], wait_s=SERVICE_WAIT_S)
        while True:
            self._register.put(service, dict(self._places(await query.next())))
            self._known.add(service)
            self._register.synced = self._known == self._followed.keys()

    def _places(self, instances: list[_Instance]) -> Iterator[tuple[Place, Name]]:
        for instance in instances:
            service = instance.service
            critical = any(check.status == "critical" for check in instance.checks)
            # A sidecar stands before its service, which is what its callers mean.
            text = service.proxy.destination_service_name if service.proxy else ""
            own = _Where(address=service.address or instance.node.address, port=service.port)
            for where in (own, *service.tagged_addresses.values()):
                place = placed(where.address, where.port)
                doubt = CRITICAL if critical else 0
                name = self._register.name(text or service.service, place, doubt=doubt) if place else None
                if name and place:
                    yield place, name

    def _query(self, path: str, kind: type[T], *, wait_s: int) -> "_Query[T]":
        parameters = {"consistent": "", **({"dc": self._datacentre} if self._datacentre else {})}
        return _Query(self._site, path, kind, parameters=parameters, wait_s=wait_s)


class _Query(Generic[T]):
    """A question that is answered anew when the answer has changed, or after ``wait_s`` in any case."""

    def __init__(
        self, site: Site, path: str, kind: type[T], *, parameters: Mapping[str, str], wait_s: int
    ) -> None:
        self._site = site
        self._path = path
        self._decoder = msgspec.json.Decoder(kind)
        self._parameters = parameters
        self._wait_s = wait_s
        self._index = 0

    async def next(self) -> T:
        """The answer as it is after it was last asked for; raises :class:`FeedError`."""
        waiting = {"index": str(self._index), "wait": f"{self._wait_s}s"} if self._index else {}
        if waiting:
            await asyncio.sleep(PAUSE_S)
        answer = await self._site.get(
            f"/v1/{self._path}",
            within_s=self._wait_s * 17 / 16 + PATIENCE_S if waiting else PATIENCE_S,
            parameters={**self._parameters, **waiting},
        )
        index = answer.headers.get("X-Consul-Index", "")
        if not index.isdecimal():
            raise FeedError(f"no Consul answers for {self._path}: look at its url")
        # One that goes back, as when its data was restored, must begin anew.
        self._index = max(1, int(index)) if int(index) >= self._index else 0
        try:
            return self._decoder.decode(answer.body)
        except msgspec.DecodeError as e:
            raise FeedError(
                f"Consul's answer for {self._path} makes no sense: {e}: look at its version"
            ) from e
