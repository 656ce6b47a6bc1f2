"""Thresholds."""

from dm.policy import Policy


def test_a_vcd_may_have_a_threshold_of_its_own() -> None:
    """The one of a VCD is used for it alone."""
    policy = Policy(stack_threshold=1.0, vcd_threshold=0.2, vcd_thresholds={"db": 0.6})
    assert not policy.exceeded(0.5, {"db": 0.5}, already=False)
    assert policy.exceeded(0.5, {"api": 0.5}, already=False)


def test_a_deviation_is_over_only_well_below_its_threshold() -> None:
    """What was above stays so until it has fallen by the hysteresis."""
    policy = Policy(stack_threshold=0.2, vcd_threshold=1.0, hysteresis=0.25)
    assert not policy.exceeded(0.19, {}, already=False)
    assert policy.exceeded(0.19, {}, already=True)
    assert not policy.exceeded(0.15, {}, already=True)
