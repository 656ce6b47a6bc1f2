"""What people say of a golden image's edges, beside what was learned. Pure values; they outlive every capture."""

from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from msgspec import Meta

from dm.edge import EdgeKey, Transport

ANY = "*"
LAST_PORT = 0xFFFF


class Action(StrEnum):
    """What a rule does to the edges that it matches; where several match, the first of these wins.

    pin: the edge has to be there, though not every launch had it. tolerate: it is judged and shown, but never counts.
    ignore: it is neither judged nor unexpected.
    """

    PIN = "pin"
    TOLERATE = "tolerate"
    IGNORE = "ignore"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One rule. ``source`` and ``target`` may hold the wildcards * and ?; without transport or port, any matches."""

    action: Action
    source: str = ANY
    target: str = ANY
    transport: Transport | None = None
    port: Annotated[int, Meta(ge=0, le=LAST_PORT)] | None = None
    note: str = ""

    @property
    def pattern(self) -> tuple[str, str, str, int]:
        """What it matches; two rules on the same pattern are one that was changed."""
        return self.source, self.target, self.transport or "", -1 if self.port is None else self.port

    def matches(self, key: EdgeKey) -> bool:
        """Whether it speaks of this edge."""
        return (
            self.transport in (None, key.transport)
            and self.port in (None, key.port)
            and fnmatchcase(key.source, self.source)
            and fnmatchcase(key.target, self.target)
        )

    def __str__(self) -> str:
        port = ANY if self.port is None else str(self.port)
        suffix = f"/{self.transport}" if self.transport is not None else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.action} {self.source} → {self.target}:{port}{suffix}{note}"


def rule_for(rules: Iterable[Rule], key: EdgeKey) -> Rule | None:
    """The rule that holds for an edge."""
    strength = list(Action).index
    matching = (rule for rule in rules if rule.matches(key))
    return min(matching, key=lambda rule: strength(rule.action), default=None)


def joined(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """All of them, each pattern and action once, in one order whatever the order they came in."""
    unique = {(rule.pattern, rule.action, rule.note): rule for rule in rules}
    return tuple(unique[key] for key in sorted(unique))


def changed(rules: Iterable[Rule], rule: Rule) -> tuple[Rule, ...]:
    """The rules with this one instead of any other on the same pattern."""
    return joined([*(one for one in rules if one.pattern != rule.pattern), rule])


def without(rules: Iterable[Rule], pattern: tuple[str, str, str, int]) -> tuple[Rule, ...]:
    """The rules without any on this pattern."""
    return tuple(rule for rule in rules if rule.pattern != pattern)
