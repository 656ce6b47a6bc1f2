"""One dependency as its agent tells of it, report by report."""

from dm.edge import EdgeKey, LiveEdge, Transport
from tests.dm.test_graph import flow, key

FLOW = key("a", "198.18.0.2")


def edge(transport: Transport = Transport.TCP) -> LiveEdge:
    """One of which nothing is known yet."""
    return LiveEdge(EdgeKey("a", "b", transport, 80))


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
