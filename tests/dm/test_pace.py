"""How slow a launch is as a whole."""

import msgspec
import pytest

from dm.pace import ENOUGH, MOST, Pace
from tests.dm.test_golden import an_image

(EDGE,) = an_image().edges  # usually there after 4 s


@pytest.mark.parametrize(
    ("ratios", "factor"), [([1.0] * 5, 1.0), ([1.1] * 5, 1.0), ([2.0] * 5, 2.0), ([99.0] * 5, MOST)]
)
def test_the_pace_is_that_of_most_edges(ratios: list[float], factor: float) -> None:
    """A little is chance, twice as slow is twice as slow, and there is an end to patience."""
    pace = Pace()
    for ratio in ratios:
        pace.note(EDGE, 4.0 * ratio)
    assert pace.factor == pytest.approx(factor)


def test_a_minority_sets_no_pace() -> None:
    """Two late services among five are late, the launch is not."""
    pace = Pace()
    for ratio in (1.0, 3.0, 1.0, 3.0, 1.0):
        pace.note(EDGE, 4.0 * ratio)
    assert pace.factor == 1.0


def test_few_edges_and_quick_ones_tell_nothing() -> None:
    """Before enough edges are there, and from those that are always there at once, nothing follows."""
    pace = Pace()
    for _ in range(ENOUGH - 1):
        pace.note(EDGE, 12.0)
    assert pace.factor == 1.0
    quick = msgspec.structs.replace(EDGE, established_ms=(20,))
    for _ in range(9):
        pace.note(quick, 3.0)
    assert pace.factor == 1.0
