"""Whose doing it is that a machine has gone back."""

from idm.drivers.vm_reverts import Reverts


def test_an_incarnation_made_of_a_snapshot_is_somebody_elses() -> None:
    """It stays so while it runs, and the next one is nobody's."""
    reverts = Reverts()
    assert not reverts.look("db", "one", from_snapshot=False)
    assert reverts.look("db", "two", from_snapshot=True)
    assert reverts.look("db", "two", from_snapshot=False)
    assert not reverts.look("db", "three", from_snapshot=False)


def test_one_that_leaves_for_a_snapshot_is_known_from_its_first_moment() -> None:
    """The new incarnation counts before it has arrived; the old one, which may still be seen, does not."""
    reverts = Reverts()
    reverts.look("db", "one", from_snapshot=False)
    reverts.note_leave("db")
    assert not reverts.look("db", "one", from_snapshot=False)
    assert reverts.look("db", "two", from_snapshot=False)
    assert not reverts.look("db", "three", from_snapshot=False)


def test_one_taken_back_to_where_it_was_off_counts_when_it_is_started() -> None:
    """However long it is off."""
    reverts = Reverts()
    reverts.look("db", "one", from_snapshot=False)
    for _ in range(3):
        assert not reverts.look("db", "", from_snapshot=True)
    assert reverts.look("db", "two", from_snapshot=False)


def test_a_departure_that_is_told_late_is_over() -> None:
    """It says nothing about what somebody starts later."""
    reverts = Reverts()
    assert reverts.look("db", "two", from_snapshot=True)
    reverts.note_leave("db")
    assert reverts.look("db", "two", from_snapshot=True)
    assert not reverts.look("db", "three", from_snapshot=False)


def test_our_own_doing_is_not_somebody_elses() -> None:
    """Neither while it is done, nor when the last event of it comes afterwards."""
    reverts = Reverts()
    reverts.look("db", "one", from_snapshot=False)
    with reverts.ours("db"):
        assert reverts.is_ours("db")
        assert not reverts.look("db", "two", from_snapshot=True)
        reverts.note_ours("db", "two")
    assert not reverts.is_ours("db")
    assert not reverts.look("db", "two", from_snapshot=True)
    assert reverts.look("db", "three", from_snapshot=True)
