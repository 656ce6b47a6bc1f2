"""What a capture makes of a live stack and of the golden image in force. Pure: the clock is passed in."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from dm.edge import LiveEdge
from dm.expected import expect
from dm.golden import GoldenError, GoldenImage
from dm.learning import merge, unseen_share
from dm.rules import Action, Rule, rule_for
from dm.stack import Stack
from dm.states import failure_sentence


def capture(
    stack: Stack, current: GoldenImage | None, *, join: bool, smoke: bool, now_s: float
) -> GoldenImage:
    """The image that comes into force after ``current``; raises :class:`GoldenError` when now is no time for it."""
    rules = current.rules if current else ()
    patience_s = stack.spec.policy.patience_s
    if why := objection(stack.graph, rules, now_s=now_s, patience_s=patience_s):
        advice = "mend it first" + (", or tolerate it by `dm golden rule`" if current else "")
        raise GoldenError(f"nothing is learned while {why}: {advice}")
    image = msgspec.structs.replace(stack.learn(smoke=smoke), launches=(stack.spec.launch,))
    return succeed(current, image, join=join)


def objection(edges: Iterable[LiveEdge], rules: Iterable[Rule], *, now_s: float, patience_s: float) -> str:
    """Why nothing should be learned now: an edge that worked fails, and no rule makes light of it; empty for no reason.

    What never worked is not learned anyway, and forbids nothing.
    """
    known = tuple(rules)
    for edge in edges:
        if edge.seen_ok and edge.failing(now_s, patience_s=patience_s):
            rule = rule_for(known, edge.key)
            if rule is None or rule.action is Action.PIN:
                return f"{edge.key} fails, {failure_sentence(edge, now_s)}"
    return ""


def succeed(current: GoldenImage | None, image: GoldenImage, *, join: bool) -> GoldenImage:
    """What comes into force when ``image`` was captured: as it is, or joined with the current one, and with its rules.

    Raises :class:`GoldenError` when they cannot be joined.
    """
    if current is None:
        return image
    if not join:
        return msgspec.structs.replace(image, rules=current.rules)
    if image.fingerprint != current.fingerprint:
        raise GoldenError(
            f"golden image {current.id} was learned from another manifest: capture without --merge to begin anew"
        )
    if set(image.launches) & set(current.launches):
        raise GoldenError(
            f"golden image {current.id} has learned from this launch already, and it counts once: start the stack "
            "anew before --merge, or capture without it"
        )
    return merge([current, image])


def sureness(image: GoldenImage, edges: Iterable[LiveEdge]) -> list[str]:
    """What was learned, what was left out of the live edges, and how much may be unseen; a sentence each."""
    classes = Counter(image.class_of(edge) for edge in expect(image).edges.values())
    kinds = (f"{count} {name}" for name, count in sorted(classes.items(), reverse=True))
    never = sorted(str(edge.key) for edge in edges if edge.attempts and not edge.seen_ok)
    smoke = (
        "" if image.smoke else ", and what only traffic brings, since no smoke workload ran in all of them"
    )
    return [
        "; ".join(kinds),
        *([f"left out, because it never worked: {', '.join(never)}"] if never else []),
        f"may be unseen: an edge that is part of {unseen_share(image.runs):.0%} of launches (95 % sure){smoke}",
    ]
