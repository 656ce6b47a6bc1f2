"""What a person is told of a verdict."""

import re

import msgspec

from dm.explain import Explanation, explain
from dm.knobs import knobs
from dm.learning import merge
from dm.policy import Policy
from dm.rollback import Limits, Mode
from dm.rules import Action, Rule
from dm.verdict import Verdict
from idm.manifest import Judge, Rollback
from tests.dm.test_stack import healthy, learned
from tests.sim.systems import shop
from tests.sim.world import REPORT_S, World


def explained(world: World, *, about: str = "") -> Explanation:
    """The newest judgement's explanation."""
    return explain(world.stack, world.history[-1][1], now_s=world.now_s, about=about)


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
    assert (
        "the stack deviates by 18.2% (2 of 11 golden edges), not above its threshold of 20% (once above"
        in said
    )
    assert "cache deviates by 100% of its own edges, above its threshold of 20%" in said
    assert "due 7" in said
    failing = next(edge for edge in explanation.edges if edge.counts)
    assert failing.key.target == "cache"
    assert "attempts refused" in failing.sentences[0]
    assert "seen in 1 of 1 launch" in " ".join(failing.sentences)


def test_says_how_long_an_edge_may_be_closed() -> None:
    """An edge that is held open deviates when it was closed for as long as its explanation says."""
    world = healthy()
    said = text(explained(world, about="worker"))
    found = re.search(r"worker → queue:\d+ .*missing when nothing is open for ([\d.]+) s", said)
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


def test_a_deviation_that_is_not_confirmed_says_when_it_will_be() -> None:
    """Nobody is called responsible before that, and nothing is said to be rolled back."""
    world = healthy()
    world.broken.add("cache")
    assert world.until(Verdict.DEGRADED, within_s=5.0) is not None
    said = text(explained(world))
    found = re.search(r"a threshold is exceeded; if it stays so for ([\d.]+) s more, it is believed", said)
    assert found is not None
    assert 0 < float(found[1]) <= world.policy.confirm_s
    assert "is suspected" in said
    assert "is responsible" not in said
    assert "nothing is rolled back" in said


def test_a_launch_and_a_blind_spot_say_what_they_mean() -> None:
    """Somebody who does not know the verdicts learns what follows from them."""
    world = shop().launch()
    world.guard(learned())
    world.run(0.5)
    assert "not every edge is due yet" in text(explained(world))
    world.run(20.0)
    world.silent.add("api")
    world.stack.lost(world.vcd("api"), now_s=world.now_s)
    world.run(1.0)
    said = text(explained(world))
    assert "the agent of api is silent" in said
    assert "too little is known to act on it" in said


def test_new_calls_alone_are_said_to_be_no_failure() -> None:
    """However far they are above the thresholds."""
    world = healthy()
    assert world.stack.image is not None
    kept = tuple(edge for edge in world.stack.image.edges if edge.target != "queue")
    world.guard(msgspec.structs.replace(world.stack.image, edges=kept))
    world.run(4.0)
    said = explain(world.stack, world.history[-1][1], now_s=world.now_s, outlook="what is done").sentences
    assert "only what is not in the image deviates, which alone is no failure: nothing is rolled back" in said
    assert "what is done" in said
    assert "2 that are not in the image" in text(explained(world))


def test_an_edge_that_not_every_launch_had_cannot_be_missing() -> None:
    """It is not taken for one that only calls bring."""
    world = healthy()
    assert world.stack.image is not None
    image = world.stack.image
    kept = tuple(edge for edge in image.edges if edge.target != "queue")
    other = msgspec.structs.replace(image, edges=kept, launches=("other",))
    world.guard(merge([image, other]))
    world.run(1.0)
    assert "optional, held: seen in 1 of 2 launches" in text(explained(world, about="queue"))
    assert "unless a rule pins it" in text(explained(world, about="queue"))


def test_every_setting_is_shown_with_its_place_in_the_manifest() -> None:
    """All that the manager is told of the manifest's two tables is there, and thresholds of single VCDs."""
    policy = Policy(vcd_thresholds={"db": 0.5})
    shown = {knob.name: knob for knob in knobs(policy, Limits(mode=Mode.AUTO), mode=Mode.OBSERVE)}
    assert shown["judge.vcd_thresholds.db"].value == "0.5"
    assert shown["rollback.mode"].value == "auto"
    assert "`idm guard` has set observe instead" in shown["rollback.mode"].meaning
    declared = {f"judge.{name}" for name in Judge.__struct_fields__ if name != "vcd_thresholds"}
    declared |= {
        f"rollback.{name}" for name in Rollback.__struct_fields__ if name not in ("keep_last", "snapshot")
    }
    assert shown.keys() - {"judge.vcd_thresholds.db"} == declared


def test_the_defaults_of_the_manifest_are_those_of_the_manager() -> None:
    """What is simulated is what a manifest without a word about it means."""
    declared = {name: getattr(Judge(), name) for name in Judge.__struct_fields__}
    declared["slack_s"] = declared.pop("launch_slack_s")
    assert Policy(**declared) == Policy()
