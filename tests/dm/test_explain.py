"""What a person is told of a verdict."""

import re

import msgspec

from dm.explain import Explanation, explain
from dm.rules import Action, Rule
from dm.verdict import Verdict
from idm.manifest import Judge
from tests.dm.test_stack import healthy
from tests.sim.world import REPORT_S, World


def explained(world: World, *, about: str = "") -> Explanation:
    """The newest judgement's explanation."""
    return explain(world.stack, world.history[-1][1], about=about)


def text(explanation: Explanation) -> str:
    """All sentences."""
    edges = (f"{edge.key} {' '.join(edge.sentences)}" for edge in explanation.edges)
    return "\n".join([*explanation.sentences, *edges])


def test_a_failed_stack_says_who_and_why() -> None:
    """The deviation, the thresholds, the culprit with its evidence and each edge's expectation are told."""
    world = healthy()
    world.broken.add("cache")
    assert world.until(Verdict.FAILED, within_s=10.0) is not None
    explanation = explained(world)
    assert explanation.verdict is Verdict.FAILED
    said = text(explanation)
    assert "cache is responsible (score 1.00)" in said
    assert "golden edges), and fails above 20%" in said
    failing = next(edge for edge in explanation.edges if edge.counts)
    assert failing.key.target == "cache"
    assert "attempts refused" in failing.sentences[0]
    assert "seen in 1 of 1 launch" in " ".join(failing.sentences)


def test_says_how_long_an_edge_may_be_closed() -> None:
    """An edge that is held open deviates when it was closed for as long as its explanation says."""
    world = healthy()
    said = text(explained(world, about="worker"))
    found = re.search(r"worker → queue:\d+ .*gone when nothing is open for ([\d.]+) s", said)
    assert found is not None
    begin_s = world.now_s
    world.hung.add("worker")
    world.drop_connections("worker")
    while not world.stack.wrong:
        world.run(0.25)
        assert world.now_s < begin_s + 20.0
    assert abs(world.now_s - begin_s - float(found[1])) < REPORT_S + 0.5


def test_one_vcd_can_be_asked_about() -> None:
    """Only the edges that begin or end there are explained."""
    edges = explained(healthy(), about="db").edges
    assert edges
    assert all("db" in (edge.key.source, edge.key.target) for edge in edges)


def test_a_rule_is_named_where_it_holds() -> None:
    """An edge that a rule tolerates says so, with the rule."""
    world = healthy()
    assert world.stack.image is not None
    rule = Rule(action=Action.TOLERATE, target="cache", note="warms up")
    world.guard(msgspec.structs.replace(world.stack.image, rules=(rule,)))
    world.broken.add("cache")
    world.run(8.0)
    said = text(explained(world, about="cache"))
    assert "a rule says: tolerate * → cache:* (warms up)" in said
    assert "which a rule tolerates" in said


def test_every_setting_is_shown_with_its_place_in_the_manifest() -> None:
    """All fields of the manifest's table are there, and thresholds of single VCDs."""
    world = healthy()
    policy = world.stack.spec.policy._replace(vcd_thresholds={"db": 0.5})
    world.stack.spec = world.stack.spec._replace(policy=policy)
    names = {knob.name: knob.value for knob in explained(world).knobs}
    assert names["judge.vcd_thresholds.db"] == "0.5"
    declared = {f"judge.{name}" for name in Judge.__struct_fields__}
    assert declared - {"judge.vcd_thresholds"} == names.keys() - {"judge.vcd_thresholds.db"}
