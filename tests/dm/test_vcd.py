"""What is known of one VCD beside its edges."""

from dm.vcd import LOSS_REMEMBERED_S, VcdState


def test_losses_of_another_session_are_counted_from_nothing() -> None:
    """An agent that begins anew may lose less than the one before it, and is doubted all the same."""
    vcd = VcdState("db", generation=1, started_s=0.0)
    vcd.begin("one")
    vcd.lose({"LOSS_REASON_MAP_FULL": 5}, now_s=1.0)
    later_s = 2 * LOSS_REMEMBERED_S
    vcd.begin("one")
    vcd.lose({"LOSS_REASON_MAP_FULL": 5}, now_s=later_s)
    assert not vcd.loss_doubt(later_s)
    vcd.begin("two")
    vcd.lose({"LOSS_REASON_MAP_FULL": 2}, now_s=later_s)
    assert vcd.loss_doubt(later_s)
