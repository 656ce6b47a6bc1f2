"""Who was lately in touch with whom. Pure.

Asked once for each deviating edge: each node's connections are sorted the first time, so that blaming a node with
thousands of callers costs thousands of steps and not millions.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, takewhile
from typing import NamedTuple

from dm.edge import EdgeKey

Called = tuple[str, int, str]
"""Transport, port, and the service that a registry names."""

NAMED = 3
"""How many of those who reach a target are told by name."""


class Contact(NamedTuple):
    """What one live edge proves of its ends. Times are of the last proof; -inf is never.

    A connection was open when its caller's agent was last heard: who is cut off cannot say that it no longer is.
    """

    key: EdgeKey
    established_s: float
    refused_s: float
    held_s: float
    fails: bool


class _Callers(NamedTuple):
    """Who calls at one port: by when they last got through, some that hold a connection, and who fails."""

    reached: list[tuple[float, str]]
    holding: list[str]
    failing: set[str]


_NOBODY = _Callers([], [], set())


class _Touch(NamedTuple):
    """A node's partners by when something last came back from or for them, and by when a connection was last open."""

    answered: tuple[tuple[float, str], ...]
    held: tuple[tuple[float, str], ...]


class Contacts:
    """Answers for any node; ``touching`` gives the live edges that begin or end at one."""

    def __init__(self, touching: Callable[[str], Iterable[Contact]]) -> None:
        self._touching = touching
        self._contacts: dict[str, list[Contact]] = {}
        self._touches: dict[str, _Touch] = {}
        self._doors: dict[str, dict[Called, _Callers]] = {}

    def reached_by(self, key: EdgeKey, *, since_s: float, until_s: float = math.inf) -> list[str]:
        """Some others who got through to the same port of an edge's target in that time, in a stable order.

        Only their latest success is known, so who gets through all the time is found at some looks and not at others.
        """
        reached = takewhile(lambda one: one[0] > since_s, self._callers(key).reached)
        others = (name for time_s, name in reached if time_s <= until_s and name != key.source)
        return sorted(islice(others, NAMED))

    def holding(self, key: EdgeKey) -> list[str]:
        """Some others who hold a connection to the same port, if nobody but the edge's source fails there."""
        callers = self._callers(key)
        if callers.failing - {key.source}:
            return []
        return [name for name in callers.holding if name != key.source][:NAMED]

    def fails(self, name: str, key: EdgeKey) -> bool:
        """Whether a node's own calls to the same port fail."""
        return name in self._callers(key).failing

    def in_touch(self, name: str, *, besides: str, since_s: float) -> int:
        """2 when an answer went to or came from somebody else since, 1 when a connection was merely open, else 0."""
        touch = self._touches.get(name)
        if touch is None:
            touch = self._touches[name] = self._find_touch(name)
        if any(time_s > since_s for time_s, partner in touch.answered if partner != besides):
            return 2
        return int(any(time_s > since_s for time_s, partner in touch.held if partner != besides))

    def _of(self, name: str) -> list[Contact]:
        contacts = self._contacts.get(name)
        if contacts is None:
            contacts = self._contacts[name] = list(self._touching(name))
        return contacts

    def _callers(self, key: EdgeKey) -> _Callers:
        doors = self._doors.get(key.target)
        if doors is None:
            doors = self._doors[key.target] = self._find_doors(key.target)
        return doors.get(_called(key), _NOBODY)

    def _find_doors(self, name: str) -> dict[Called, _Callers]:
        doors: dict[Called, _Callers] = {}
        for contact in self._of(name):
            source = contact.key.source
            if contact.key.target != name:
                continue
            callers = doors.setdefault(_called(contact.key), _Callers([], [], set()))
            callers.reached.append((contact.established_s, source))
            if contact.held_s > -math.inf:
                callers.holding.append(source)
            if contact.fails:
                callers.failing.add(source)
        for callers in doors.values():
            callers.reached.sort(key=lambda one: (-one[0], one[1]))
            callers.holding[:] = sorted(callers.holding)[: NAMED + 1]
        return doors

    def _find_touch(self, name: str) -> _Touch:
        """The two latest partners suffice: whoever asks leaves out one.

        Where several callers fail, what is merely held open may be cut as well.
        """
        failing = {one.key.source for one in self._of(name) if one.fails and one.key.target == name}
        latest: dict[str, float] = {}
        held: dict[str, float] = {}
        for contact in self._of(name):
            partner = contact.key.target if contact.key.source == name else contact.key.source
            time_s = max(contact.established_s, contact.refused_s)
            latest[partner] = max(time_s, latest.get(partner, -math.inf))
            held[partner] = max(contact.held_s, held.get(partner, -math.inf))
        return _Touch(_two_latest(latest), _two_latest(held) if len(failing) < 2 else ())


def _two_latest(times: Mapping[str, float]) -> tuple[tuple[float, str], ...]:
    return tuple(sorted(((time_s, partner) for partner, time_s in times.items()), reverse=True)[:2])


def _called(key: EdgeKey) -> Called:
    return key.transport, key.port, key.service
