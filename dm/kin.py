"""Edges found by what may stand for them: the same call to another target, or another call to the same. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from dm.edge import EdgeKey, Pair, Transport


class Role(NamedTuple):
    """What an edge is to its source, whoever the target."""

    source: str
    transport: Transport
    port: int
    service: str

    @classmethod
    def of(cls, key: EdgeKey) -> "Role":
        """That of an edge."""
        return cls(key.source, key.transport, key.port, key.service)


class Kin:
    """A set of edges, found by their role and by the pair of their ends."""

    def __init__(self) -> None:
        self._keys: dict[Role | Pair, dict[EdgeKey, None]] = {}

    def add(self, key: EdgeKey) -> None:
        """Take one in."""
        for index in (Role.of(key), Pair.of(key)):
            self._keys.setdefault(index, {})[key] = None

    def discard(self, key: EdgeKey) -> None:
        """Leave one out, if it is there."""
        for index in (Role.of(key), Pair.of(key)):
            keys = self._keys.get(index)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self._keys[index]

    def alike(self, key: EdgeKey) -> tuple[EdgeKey, ...]:
        """Those with the same role."""
        return tuple(self._keys.get(Role.of(key), ()))

    def near(self, key: EdgeKey) -> Iterator[EdgeKey]:
        """Those with the same role, and those between the same ends."""
        yield from self._keys.get(Role.of(key), ())
        yield from (other for other in self._keys.get(Pair.of(key), ()) if Role.of(other) != Role.of(key))
