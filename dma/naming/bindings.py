"""Under which names applications asked for addresses, as the answers of their name servers tell."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from dma.flow import Address
from dma.naming.cache import LIMIT, Cache
from dma.naming.dns_answer import Answer, Binding, Service
from dma.naming.method import Place
from dma.naming.name import CONFIDENCE, Name, Source

GRACE_S = 3.0
"""Beyond its time to live, in which the application that asked may still be about to call."""
SERVICES_LIMIT = 1024
_OFFERS_KEPT = 8

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Service(NamedTuple):
    name: str
    port: int
    expires_s: float


class Bindings:
    """Takes in answers, in any order, and keeps what they say for as long as they say; bounded, and not thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.cache = Cache(grace_s=GRACE_S, clock=clock)
        self._clock = clock
        self._services: dict[str, tuple[_Service, ...]] = {}  # by the host that offers them
        # When the newest answer expires, by name and version of IP.
        self._latest: dict[tuple[str, int], float] = {}

    def learn(self, answer: Answer) -> None:
        """Take in one answer. A host's address is one of the services for which the host was named earlier, too."""
        now_s = self._clock()
        for service in answer.services:
            self._offer(service, now_s)
        for binding in [*answer.bindings, *self._offered(answer, now_s)]:
            self._bind(binding, now_s)

    def superseded(self, name: Name, address: Address) -> bool:
        """Whether the name was asked for again, and the newer answer named other addresses only."""
        latest_s = self._latest.get((name.name, address.version))
        return latest_s is not None and name.expires_s is not None and name.expires_s < latest_s

    def _bind(self, binding: Binding, now_s: float) -> None:
        expires_s = now_s + binding.ttl_s
        _put_last(self._latest, (binding.name, binding.address.version), expires_s, limit=LIMIT)
        name = Name(binding.name, Source.PASSIVE_DNS, CONFIDENCE[Source.PASSIVE_DNS], expires_s)
        self.cache.add(Place(binding.address, binding.port), [name])

    def _offer(self, service: Service, now_s: float) -> None:
        offered = _Service(service.name, service.port, now_s + service.ttl_s)
        others = [
            one
            for one in self._services.get(service.host, ())
            if one[:2] != offered[:2] and one.expires_s > now_s
        ]
        _put_last(self._services, service.host, (*others[1 - _OFFERS_KEPT :], offered), limit=SERVICES_LIMIT)

    def _offered(self, answer: Answer, now_s: float) -> Iterable[Binding]:
        for service in self._services.get(answer.name, ()):
            left_s = service.expires_s - now_s
            if left_s > 0:
                for binding in answer.bindings:
                    ttl_s = min(binding.ttl_s, int(left_s))
                    yield Binding(service.name, binding.address, service.port, ttl_s)


def _put_last(mapping: dict[_Key, _Value], key: _Key, value: _Value, *, limit: int) -> None:
    """The oldest gives way when it is full."""
    mapping.pop(key, None)
    if len(mapping) >= limit:
        del mapping[next(iter(mapping))]
    mapping[key] = value
