"""One dependency as its agent tells of it, report by report."""

from collections.abc import Iterable
from itertools import accumulate
from random import Random

import pytest

from dm.edge import EdgeKey, FlowKey, LiveEdge, Transport
from tests.dm.test_graph import flow, key

FLOW = key("a", "198.18.0.2")


def edge(transport: Transport = Transport.TCP) -> LiveEdge:
    """One of which nothing is known yet."""
    return LiveEdge(EdgeKey("a", "b", transport, 80))


def called(times_s: Iterable[float], *, reported_s: float = 1.0) -> LiveEdge:
    """An edge that was called at these times and told of once an interval."""
    live, calls = edge(), sorted(times_s)
    told = 0
    for second in range(1, round(calls[-1] / reported_s) + 2):
        now_s = second * reported_s
        count = sum(at_s <= now_s for at_s in calls)
        if count > told:
            told = count
            latest = flow(attempts=count, established=count, at_s=calls[count - 1])
            live.put(FLOW, latest._replace(first_seen_s=calls[0]), now_s=now_s)
    return live


def test_a_report_that_was_under_way_for_long_does_not_outlast_what_came_after() -> None:
    """A refusal that was told three seconds late seems later than the success that followed it, and is over."""
    live = edge()
    live.put(FLOW, flow(attempts=2, established=0, refused=2, at_s=13.0), now_s=13.0)
    after = flow(attempts=3, refused=2, open_=1, at_s=11.0)._replace(last_failure_s=10.0)
    live.put(FLOW, after, now_s=11.5)
    assert not live.failing(12.0, patience_s=1.0)
    assert (live.last_failure_s, live.last_established_s) == (10.0, 11.0)


def test_a_report_that_comes_late_is_no_other_call() -> None:
    """The same attempt told again by a slower report leaves no gap between two."""
    live = edge()
    for seems_s in (10.0, 10.7, 10.2):
        live.put(FLOW, flow(at_s=seems_s), now_s=11.0)
    assert not live.gaps


@pytest.mark.parametrize("period_s", [0.5, 1.0, 2.0, 10.0])
def test_a_timer_ticks(period_s: float) -> None:
    """Calls at regular times, give or take a fifth, are a timer's, however seldom they are reported."""
    random = Random(1)
    for _ in range(50):
        waits = (period_s * random.uniform(0.8, 1.2) for _ in range(30))
        assert called(accumulate(waits)).ticks


@pytest.mark.parametrize("rate", [0.2, 0.5, 1.0])
def test_chance_does_not_tick(rate: float) -> None:
    """Calls at random times, not much more often than they are told, are next to never taken for a timer's."""
    random = Random(1)
    ticks = [called(accumulate(random.expovariate(rate) for _ in range(40))).ticks for _ in range(100)]
    assert sum(ticks) <= 2


def test_who_failed_last_is_known() -> None:
    """A call that failed after the latest success has failed last; of datagrams nobody can say."""
    live = edge()
    live.put(FLOW, flow(at_s=1.0), now_s=1.0)
    assert not live.last_failed
    live.put(FLOW, flow(attempts=2, refused=1, at_s=1.0)._replace(last_failure_s=2.0), now_s=2.0)
    assert live.last_failed
    datagrams = edge(Transport.UDP)
    told = FlowKey("a", Transport.UDP, FLOW.address, 80, "c")
    datagrams.put(told, flow(attempts=2, established=0, refused=1)._replace(last_failure_s=2.0), now_s=2.0)
    assert not datagrams.last_failed
