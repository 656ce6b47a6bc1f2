"""Who was lately in touch with whom. Pure.

Asked once for each deviating edge: each node's connections are sorted the first time, so that blaming a node with
thousands of callers costs thousands of steps and not millions.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from itertools import islice, takewhile
from typing import NamedTuple

from dm.edge import EdgeKey

Called = tuple[str, int, str]
"""Transport, port, and the service that a registry names."""

NAMED = 3
"""How many of those who reach a target are told by name."""


class Contact(NamedTuple):
    """What one live edge proves of its ends. Times are of the last proof; -inf is never.

    That one is merely ``held`` open is a hint: it stays so while a program hangs, and when either end is cut off.
    """

    key: EdgeKey
    established_s: float
    refused_s: float
    held: bool
    fails: bool


class _Callers(NamedTuple):
    """Who calls at one port: by when they last got through, some that hold a connection, and who fails."""

    reached: list[tuple[float, str]]
    holding: list[str]
    failing: set[str]


_NOBODY = _Callers([], [], set())


class Touch(IntEnum):
    """Whether a node is in touch with others."""

    NONE = -1
    """Calls of others or to others fail, and nothing has come back from or for any of them."""
    UNKNOWN = 0
    """Nobody has tried."""
    HELD = 1
    """Nobody has tried, but a connection is open."""
    SOME = 2
    """An answer went to or came from somebody."""


class _Partners(NamedTuple):
    """A node's partners by when something last came back from or for them, and with whom calls fail or are open."""

    answered: tuple[tuple[float, str], ...]
    failing: frozenset[str]
    holding: frozenset[str]


class Contacts:
    """Answers for any node; ``touching`` gives the live edges that begin or end at one."""

    def __init__(self, touching: Callable[[str], Iterable[Contact]]) -> None:
        self._touching = touching
        self._contacts: dict[str, list[Contact]] = {}
        self._partners: dict[str, _Partners] = {}
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

    def in_touch(self, name: str, *, besides: str, since_s: float) -> Touch:
        """Whether a node was in touch with anybody but one since then."""
        partners = self._partners.get(name)
        if partners is None:
            partners = self._partners[name] = self._find_partners(name)
        if any(time_s > since_s for time_s, partner in partners.answered if partner != besides):
            return Touch.SOME
        if partners.failing - {besides}:
            return Touch.NONE
        return Touch.HELD if partners.holding - {besides} else Touch.UNKNOWN

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
            if contact.held:
                callers.holding.append(source)
            if contact.fails:
                callers.failing.add(source)
        for callers in doors.values():
            callers.reached.sort(key=lambda one: (-one[0], one[1]))
            callers.holding[:] = sorted(callers.holding)[: NAMED + 1]
        return doors

    def _find_partners(self, name: str) -> _Partners:
        """The two latest suffice, and two of each kind: whoever asks leaves out one."""
        latest: dict[str, float] = {}
        failing: set[str] = set()
        holding: set[str] = set()
        for contact in self._of(name):
            partner = contact.key.target if contact.key.source == name else contact.key.source
            time_s = max(contact.established_s, contact.refused_s)
            latest[partner] = max(time_s, latest.get(partner, -math.inf))
            if contact.fails:
                failing.add(partner)
            elif contact.held:
                holding.add(partner)
        return _Partners(_two_latest(latest), _two(failing), _two(holding))


def _two(names: Iterable[str]) -> frozenset[str]:
    return frozenset(islice(names, 2))


def _two_latest(times: Mapping[str, float]) -> tuple[tuple[float, str], ...]:
    return tuple(sorted(((time_s, partner) for partner, time_s in times.items()), reverse=True)[:2])


def _called(key: EdgeKey) -> Called:
    return key.transport, key.port, key.service
