"""What one registry lists, each entry under the registry's own key."""

import time
from collections.abc import Callable, Container, Mapping

from dma.naming.cache import Cache
from dma.naming.method import Counters, Place
from dma.naming.name import CONFIDENCE, Name, Source

NAME_LIMIT = 255


class Register:
    """Written by the registry's own thread alone; what others look up is the cache.

    Two keys may claim one place: then it has the names of both.
    """

    def __init__(
        self, source: Source, cache: Cache, counters: Counters, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counters = counters
        self.synced = False
        """Whether all that the registry lists was taken in since it was last out of reach."""
        self._source = source
        self._cache = cache
        self._clock = clock
        self._heard_s = clock()
        self._listed: dict[str, Mapping[Place, Name]] = {}
        self._claims: dict[Place, dict[str, Name]] = {}

    def name(self, text: str, place: Place, *, doubt: int = 0) -> Name | None:
        """A place's name, by ``doubt`` less to be trusted; None for what cannot be printed as one."""
        if not (0 < len(text) <= NAME_LIMIT and text.isprintable()) or text.isspace():
            return None
        confidence = CONFIDENCE[self._source] - doubt
        return Name(text, self._source, confidence, at_port=place.port is not None)

    def put(self, key: str, listed: Mapping[Place, Name]) -> None:
        """All that stands under a key now."""
        before = self._listed.pop(key, {})
        if listed:
            self._listed[key] = listed
        for place in before.keys() - listed.keys():
            del self._claims[place][key]
            self._settle(place)
        for place, name in listed.items():
            if before.get(place) != name:
                self._claims.setdefault(place, {})[key] = name
                self._settle(place)

    def keep(self, keys: Container[str]) -> None:
        """Nothing stands under other keys any more."""
        for key in [key for key in self._listed if key not in keys]:
            self.put(key, {})

    def heard(self) -> None:
        """The registry has answered; as long as it lists more than there is room for, that is told again."""
        self.counters.answers += 1
        self.counters.problem = ""
        self._heard_s = self._clock()
        if self.counters.dropped or self._cache.evicted:
            self.counters.unnamed += 1

    def silent_s(self) -> float:
        """Seconds since it last answered."""
        return self._clock() - self._heard_s

    def _settle(self, place: Place) -> None:
        claims = self._claims[place]
        if claims:
            self._cache.settle(place, sorted(set(claims.values()), key=lambda name: name.rank))
        else:
            del self._claims[place]
            self._cache.forget(place)
