"""What people say of edges."""

from hypothesis import given
from hypothesis import strategies as st

from dm.edge import EdgeKey, Transport
from dm.rules import Action, Rule, changed, joined, rule_for, without

RULES = st.builds(
    Rule,
    action=st.sampled_from(Action),
    source=st.sampled_from(["*", "a", "b?"]),
    target=st.sampled_from(["*", "c"]),
    transport=st.none() | st.sampled_from(Transport),
    port=st.none() | st.integers(0, 2),
)
KEY = EdgeKey("web-1", "db", Transport.TCP, 5432)


def test_wildcards_match() -> None:
    """* and ? stand for names, an absent port or transport for any."""
    assert Rule(action=Action.IGNORE, source="web-*").matches(KEY)
    assert Rule(
        action=Action.IGNORE, source="web-?", target="db", transport=Transport.TCP, port=5432
    ).matches(KEY)
    assert not Rule(action=Action.IGNORE, source="api*").matches(KEY)
    assert not Rule(action=Action.IGNORE, transport=Transport.UDP).matches(KEY)
    assert not Rule(action=Action.IGNORE, port=0).matches(KEY)


def test_the_strongest_rule_holds() -> None:
    """A pin wins over what is tolerated, and that over what is ignored."""
    ignore, tolerate = Rule(action=Action.IGNORE), Rule(action=Action.TOLERATE, source="web-1")
    pin = Rule(action=Action.PIN, port=5432)
    assert rule_for([ignore, tolerate, pin], KEY) == pin
    assert rule_for([ignore, tolerate], KEY) == tolerate
    assert rule_for([], KEY) is None


@given(st.lists(RULES), st.lists(RULES), st.lists(RULES))
def test_joining_is_a_union(one: list[Rule], two: list[Rule], three: list[Rule]) -> None:
    """Neither order nor grouping nor repetition matter."""
    whole = joined([*one, *two, *three])
    assert joined([*three, *one, *two]) == whole
    assert joined([*joined([*one, *two]), *three]) == whole
    assert joined([*whole, *one]) == whole


@given(st.lists(RULES), RULES)
def test_a_pattern_has_one_rule_after_a_change(rules: list[Rule], rule: Rule) -> None:
    """A changed rule replaces the one on its pattern, and can be taken away again."""
    after = changed(rules, rule)
    assert [one for one in after if one.pattern == rule.pattern] == [rule]
    assert without(after, rule.pattern) == without(joined(rules), rule.pattern)
