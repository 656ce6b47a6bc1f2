"""How slow a launch is as a whole: on a busy host everything is late together, and that is no fault. Pure."""

import math

from dm.golden import GoldenEdge

NOTICED = 1.25
"""What is less slow than this is chance."""
MOST = 4.0
"""Beyond this nobody waits, however slow the rest was."""
ENOUGH = 3
"""Edges after which the pace is believed."""
SHORTEST_S = 0.5
"""Of edges that were there at once nothing can be learned."""
_STEPS = 16


class Pace:
    """The median of how much later than usual the edges of this launch began to work."""

    def __init__(self) -> None:
        # By quarters of a doubling: an edge more costs the same at every size.
        self._later = [0] * _STEPS
        self._edges = 0

    def note(self, golden: GoldenEdge, after_s: float) -> None:
        """An edge worked for the first time, so many seconds after the launch."""
        times = golden.established_ms
        usual_s = times[len(times) // 2] / 1000 if times else 0.0
        if usual_s >= SHORTEST_S:
            ratio = max(after_s, usual_s) / usual_s
            self._later[min(_STEPS - 1, int(4 * math.log2(ratio)))] += 1
            self._edges += 1

    @property
    def factor(self) -> float:
        """By how much what was learned of this launch's times is to be stretched; 1 when it is as fast as ever."""
        if self._edges < ENOUGH:
            return 1.0
        left = self._edges / 2
        for step, count in enumerate(self._later):
            left -= count
            if left < 0:
                # The lower end of the step: what is not certain is not granted.
                factor = 2.0 ** (step / 4)
                return min(factor, MOST) if factor >= NOTICED else 1.0
        return 1.0
