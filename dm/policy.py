"""When a deviation counts as a failure. Pure values."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

LOOK_S = 0.25
PATIENCE_S = 1.0
QUIET_AT_LEAST_S = 1.0
"""An agent may take as long to report that an edge is in use."""


class Policy(NamedTuple):
    """Thresholds are shares, 0 to 1; ``vcd_thresholds`` are those of VCDs that have one of their own.

    An attempt fails once it has been without an answer for ``patience_s``.

    ``hysteresis`` is the share of a threshold by which a deviation has to fall below it before it counts as passed.
    """

    stack_threshold: float = 0.20
    vcd_threshold: float = 0.20
    confirm_s: float = 3.0
    slack_s: float = 5.0
    patience_s: float = PATIENCE_S
    count_external: bool = False
    vcd_thresholds: Mapping[str, float] = MappingProxyType({})
    hysteresis: float = 0.10

    def threshold(self, vcd: str) -> float:
        """That of one VCD."""
        return self.vcd_thresholds.get(vcd, self.vcd_threshold)

    def exceeded(self, share: float, shares: Mapping[str, float], *, already: bool) -> bool:
        """Whether the stack's share or that of a VCD is above its threshold; ``already``: it was until now."""
        factor = 1 - self.hysteresis if already else 1.0
        return share > factor * self.stack_threshold or any(
            own > factor * self.threshold(vcd) for vcd, own in shares.items()
        )

    @property
    def quiet_s(self) -> float:
        """How much longer than its rhythm an edge may be quiet; its confirmation and two looks make it ``slack_s``."""
        return max(QUIET_AT_LEAST_S, self.slack_s - self.confirm_s - 2 * LOOK_S)
