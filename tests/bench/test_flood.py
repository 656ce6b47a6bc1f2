"""The capture under all the calls that the machine's cores can make: the short form of ``make bench-capture``."""

import pytest

from tests.bench.capture.flood import flood, overflow
from tests.bench.capture.load import lab

SECONDS = 3.0


@pytest.mark.kernel
def test_counts_every_call() -> None:
    """Whatever the rate, no edge is missing, no counter is wrong, and nothing is lost."""
    with lab() as made:
        found = flood(made, plan="cgroup", seconds=SECONDS)
    assert found.connects_per_s > 0
    assert (found.miscounted, found.missing_edges, found.lost) == (0, 0, 0)


@pytest.mark.kernel
def test_tells_of_every_call_that_finds_no_room() -> None:
    """Of more destinations than the table holds, each call is counted or is told as lost."""
    with lab() as made:
        assert overflow(made, plan="cgroup", milliseconds=500) == 0
