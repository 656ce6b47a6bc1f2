"""How golden images come about."""

from ipaddress import IPv4Address
from random import Random

import pytest

from dm.edge import Flow
from dm.golden import GoldenImage, Kind
from dm.graph import LiveGraph
from dm.learning import learn
from tests.dm.test_graph import flow, graph, key
from tests.sim.systems import shop


class Unsearchable(tuple[str, ...]):
    """Names that nobody looks through for one of them."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        raise AssertionError(f"{name} was searched among all VCDs")


def test_learning_does_not_search_all_machines_for_each_edge() -> None:
    """What an image costs grows with the stack, and not with its square."""
    world = shop().launch()
    world.run(25.0)
    vcds = Unsearchable(world.stack.vcds)
    now_s = max(vcd.last_heard_s for vcd in world.stack.vcds.values())
    live = world.stack.graph
    image = learn(live, stack="shop", fingerprint="f", vcds=vcds, launch_s=0.0, now_s=now_s, smoke=True)
    assert [edge.key for edge in image.edges] == [edge.key for edge in world.stack.learn(smoke=True).edges]


def calling(told: Flow) -> LiveGraph:
    """A graph in which a calls b."""
    live = graph()
    live.own("b", [IPv4Address("198.18.0.2")], now_s=0.0)
    live.put(key("a", "198.18.0.2"), told, now_s=told.last_attempt_s)
    return live


def learned(live: LiveGraph) -> GoldenImage:
    """The image of a launch that began at 0, taken at its latest call."""
    now_s = max(edge.last_attempt_s or 0.0 for edge in live)
    return learn(live, stack="s", fingerprint="f", vcds=["a", "b"], launch_s=0.0, now_s=now_s, smoke=True)


def test_a_new_manager_learns_when_an_edge_was_established() -> None:
    """Of an edge that never failed its first attempt tells, though its last success is all that is reported."""
    (edge,) = learned(calling(flow(attempts=900, established=900, at_s=3600.0))).edges
    assert edge.established_ms == (500,)


def test_a_time_that_only_the_last_success_tells_is_late_rather_than_early() -> None:
    """Of an edge that failed at first nobody can say when it began to work; it is given the time that is known."""
    (edge,) = learned(calling(flow(attempts=9, established=7, refused=2, at_s=30.0))).edges
    assert edge.established_ms == (30_000,)


@pytest.mark.parametrize(("took_s", "learned_ms"), [(0.3, 500), (2.0, 2000)])
def test_a_machine_that_was_started_anew_is_learned_from_its_start(took_s: float, learned_ms: int) -> None:
    """An hour after the launch its edges take no longer than they do; what the launch took is not forgotten."""
    live = calling(flow())
    live.restart("a", now_s=3600.0)
    again_s = 3600.0 + took_s
    live.put(key("a", "198.18.0.2"), flow(at_s=again_s)._replace(first_seen_s=again_s), now_s=again_s)
    (edge,) = learned(live).edges
    assert edge.established_ms == (learned_ms,)


def test_kinds_follow_from_how_an_edge_was_used() -> None:
    """What is open is held, what comes back in a rhythm is periodic, all else is on demand."""
    assert [edge.kind for edge in learned(calling(flow(open_=1))).edges] == [Kind.HELD]
    live = calling(flow())
    assert [edge.kind for edge in learned(live).edges] == [Kind.ON_DEMAND]
    for second in range(2, 9):
        live.put(key("a", "198.18.0.2"), flow(attempts=second, established=second, at_s=second), now_s=second)
    (edge,) = learned(live).edges
    assert (edge.kind, edge.refresh_ms) == (Kind.PERIODIC, (1000,))


@pytest.mark.parametrize("rate", [0.2, 0.5, 1.0, 3.0])
def test_what_chance_makes_of_quiet_times_is_no_rhythm(rate: float) -> None:
    """Random calls go on for an hour after a minute was learned, and are never quiet for as long as is allowed."""
    random = Random(7)
    for _ in range(20):
        (edge,) = learned(calls_at_random(random, rate)).edges
        longest_s = max(random.expovariate(rate) for _ in range(round(3600 * rate)))
        assert edge.kind is Kind.ON_DEMAND or longest_s <= edge.rhythm_s(0.0)


def calls_at_random(random: Random, rate: float) -> LiveGraph:
    """A graph in which a calls b at random for a minute, told of once a second."""
    live, at_s, count = graph(), 0.0, 0
    live.own("b", [IPv4Address("198.18.0.2")], now_s=0.0)
    for second in range(1, 61):
        latest_s = 0.0
        while at_s < second:
            latest_s, at_s, count = at_s, at_s + random.expovariate(rate), count + 1
        if latest_s:
            told = flow(attempts=count, established=count, at_s=latest_s)
            live.put(key("a", "198.18.0.2"), told, now_s=float(second))
    return live


def test_a_rhythm_that_was_lost_is_none() -> None:
    """What was called every second until the workload ended, and then not for long, is called on demand."""
    live = calling(flow())
    for second in range(2, 21):
        live.put(key("a", "198.18.0.2"), flow(attempts=second, established=second, at_s=second), now_s=second)
    late = learn(live, stack="s", fingerprint="f", vcds=["a", "b"], launch_s=0.0, now_s=50.0, smoke=True)
    assert [edge.kind for edge in late.edges] == [Kind.ON_DEMAND]
