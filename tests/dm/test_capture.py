"""What a capture makes of a live stack and of the golden image in force."""

import msgspec
import pytest

from dm.capture import objection, succeed, sureness
from dm.golden import GoldenError
from dm.rules import Action, Rule
from tests.dm.test_golden import an_image
from tests.dm.test_graph import flow, key
from tests.dm.test_learning import calling, learned


def test_nothing_is_learned_while_something_fails_that_worked() -> None:
    """It would be expected, and taken back to where it failed, unless a rule says that it does not matter."""
    live = calling(flow())
    assert objection(live, (), now_s=2.0, patience_s=1.0) == ""
    live.put(
        key("a", "198.18.0.2"),
        flow(attempts=3, refused=2, at_s=2.0)._replace(last_established_s=1.0),
        now_s=2.0,
    )
    why = objection(live, (), now_s=3.0, patience_s=1.0)
    assert why == "a → b:80 fails, 2 attempts refused in the last 1.0 s"
    assert objection(live, [Rule(action=Action.PIN)], now_s=3.0, patience_s=1.0) == why
    assert not objection(live, [Rule(action=Action.TOLERATE, target="b")], now_s=3.0, patience_s=1.0)


def test_what_never_worked_is_left_out_and_told() -> None:
    """It is neither learned nor in the way."""
    live = calling(flow(established=0, refused=1))
    assert not learned(live).edges
    assert objection(live, (), now_s=3.0, patience_s=1.0) == ""
    assert "left out, because it never worked: a → b:80" in sureness(an_image(), live)


@pytest.mark.parametrize(("smoke", "told"), [(True, False), (False, True)])
def test_says_how_sure_an_image_is(smoke: bool, told: bool) -> None:
    """Its classes, the bound on what may be unseen, and whether no smoke workload ran."""
    classes, bound = sureness(an_image(smoke=smoke), ())
    assert classes == "1 required, held"
    assert "an edge that is part of 95% of launches (95 % sure)" in bound
    assert ("no smoke workload ran" in bound) is told


def test_a_capture_keeps_rules_and_a_joined_one_the_launches() -> None:
    """What people said survives; launches add up."""
    rule = Rule(action=Action.PIN, source="api")
    current, new = an_image(rules=(rule,), launches=("1",)), an_image(launches=("2",))
    assert succeed(None, new, join=True) == new
    alone = succeed(current, new, join=False)
    assert (alone.rules, alone.launches, alone.runs) == ((rule,), ("2",), 1)
    joined = succeed(current, new, join=True)
    assert (joined.rules, joined.launches, joined.runs) == ((rule,), ("1", "2"), 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"launches": ("1",)},
            "has learned from this launch already, and it counts once: start the stack anew",
        ),
        ({"fingerprint": "g"}, "was learned from another manifest: capture without --merge to begin anew"),
    ],
)
def test_what_cannot_be_joined_is_refused(changes: dict[str, object], says: str) -> None:
    """The same launch again, and one of another manifest, are told in one line with what to do."""
    current = an_image(launches=("1",))
    new = msgspec.structs.replace(an_image(launches=("2",)), **changes)
    with pytest.raises(GoldenError, match=says):
        succeed(current, new, join=True)
    assert succeed(current, new, join=False).runs == 1
