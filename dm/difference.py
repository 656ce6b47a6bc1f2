"""How two golden images differ, or an image and a live stack, for people and for programs. Pure values."""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from dm.edge import ANY_PORT, EdgeKey, Pair
from dm.expected import Expected, expect
from dm.golden import GoldenImage
from dm.rules import Action, Rule
from dm.states import WRONG, EdgeState, Judged


class Change(StrEnum):
    """How one thing differs; the value is the sign that begins its line."""

    GONE = "-"
    NEW = "+"
    OTHER = "~"
    WRONG = "!"


class Difference(NamedTuple):
    """One difference. ``subject`` is an edge, a rule or a property of the image; nothing is ""."""

    change: Change
    subject: EdgeKey | Rule | str
    was: str = ""
    now: str = ""

    def __str__(self) -> str:
        how = {
            Change.GONE: f": {self.was}" if self.was else "",
            Change.NEW: f": {self.now}" if self.now else "",
            Change.OTHER: f": {self.was}, now {self.now}",
            Change.WRONG: f": {self.now}",
        }
        return f"{self.change} {self.subject}{how[self.change]}"


def diff(old: GoldenImage, new: GoldenImage) -> list[Difference]:
    """What changed from one image to another: their stack and manifest, edges by their class, and rules."""
    before, after = expect(old).edges, expect(new).edges
    found = list(_of_stacks(old, stack=new.stack, fingerprint=new.fingerprint))
    for key in sorted(before.keys() | after.keys()):
        was = old.class_of(before[key]) if key in before else ""
        now = new.class_of(after[key]) if key in after else ""
        if was != now:
            change = Change.OTHER if was and now else Change.GONE if was else Change.NEW
            found.append(Difference(change, key, was, now))
    found += [Difference(Change.GONE, rule) for rule in old.rules if rule not in new.rules]
    return found + [Difference(Change.NEW, rule) for rule in new.rules if rule not in old.rules]


def diff_live(
    image: GoldenImage,
    worked: Iterable[EdgeKey],
    judged: Mapping[EdgeKey, Judged],
    *,
    fingerprint: str,
) -> list[Difference]:
    """What is other in a live stack than in an image, whichever is in force.

    ``worked`` are the edges that have worked in this launch, ``judged`` what is judged of all by the image in force.
    An optional edge that this launch lacks is no difference, and neither is one that a rule ignores.
    """
    expected = expect(image)
    seen = {_as_expected(key, expected) for key in worked}
    strange = {key for key, one in judged.items() if one.state is EdgeState.UNEXPECTED}
    found = list(_of_stacks(image, stack=image.stack, fingerprint=fingerprint))
    for key in sorted(expected.edges.keys() | seen | strange):
        now = judged.get(key)
        golden = expected.edges.get(key)
        if golden is None:
            if image.action(key) is not Action.IGNORE:
                never = "" if key in seen else "never worked"
                found.append(Difference(Change.NEW, key, now=never))
        elif now is not None and now.state in WRONG:
            found.append(Difference(Change.WRONG, key, image.class_of(golden), f"{now.state}, {now.reason}"))
        elif key not in seen and image.required(golden):
            found.append(Difference(Change.GONE, key, image.class_of(golden)))
    return found


def _of_stacks(old: GoldenImage, *, stack: str, fingerprint: str) -> Iterator[Difference]:
    if old.stack != stack:
        yield Difference(Change.OTHER, "stack", old.stack, stack)
    if old.fingerprint != fingerprint:
        yield Difference(Change.OTHER, "manifest", old.fingerprint[:12], fingerprint[:12])


def _as_expected(key: EdgeKey, expected: Expected) -> EdgeKey:
    """An edge on a port that an image takes together with others, as that one."""
    fixed = expected.fixed_ports.get(Pair.of(key))
    return key if key.service or fixed is None or key.port in fixed else key._replace(port=ANY_PORT)
