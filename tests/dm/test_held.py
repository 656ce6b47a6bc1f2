"""Machines in somebody else's hands: taken back, saved or held past the deployer, who says so."""

from dm.vcd import BOOT_S, Power
from dm.verdict import Verdict
from tests.dm.test_stack import healthy

BACK = "was taken back to a snapshot and stands still: virsh resume it"
SAVED = "is being saved"


def test_a_machine_that_is_held_is_never_taken_back() -> None:
    """However long nobody can reach it, the verdict says whose it is, and another incarnation gets time to come up."""
    world = healthy()
    since_s = world.now_s
    world.hold("db", BACK)
    judgement = world.run(120.0)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reasons[0] == f"db {BACK}: nothing is rolled back meanwhile"
    world.let_go("db", incarnation="second")
    world.run(60.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.history[-1][1].verdict is Verdict.OK


def test_the_same_machine_in_nobodys_hands_is_blamed() -> None:
    """One that merely stands still has failed."""
    world = healthy()
    world.hold("db", "")
    assert world.until(Verdict.FAILED, within_s=30.0) is not None
    assert world.culprits() == ["db"]


def test_what_was_only_interrupted_is_spared_as_long() -> None:
    """A machine that goes on as it was after a minute: so long its peers may wait until they try again."""
    world = healthy()
    since_s = world.now_s
    world.hold("db", SAVED)
    world.run(60.0)
    world.let_go("db")
    world.isolated.add("db")
    world.run(50.0)
    world.isolated.discard("db")
    world.run(60.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.history[-1][1].verdict is Verdict.OK


def test_what_is_broken_afterwards_is_found() -> None:
    """The time that a machine gets after somebody had it ends."""
    world = healthy()
    world.hold("db", BACK)
    world.run(60.0)
    world.broken.add("db")
    world.let_go("db", incarnation="second")
    assert world.until(Verdict.FAILED, within_s=60.0) is not None
    assert world.culprits() == ["db"]


def test_who_stood_still_for_a_moment_is_watched_as_before() -> None:
    """A snapshot that takes a second is no new launch: what breaks right after it is found as soon as ever."""
    world = healthy()
    world.hold("db", SAVED)
    world.run(1.0)
    world.let_go("db")
    world.broken.add("db")
    found_s = world.until(Verdict.FAILED, within_s=30.0)
    undisturbed = healthy()
    undisturbed.run(1.0)
    undisturbed.broken.add("db")
    expected_s = undisturbed.until(Verdict.FAILED, within_s=30.0)
    assert found_s is not None
    assert expected_s is not None
    assert found_s <= expected_s + 1.0
    assert world.culprits() == ["db"]


def test_a_whole_stack_with_a_held_machine_is_not_ok() -> None:
    """Where nothing calls on it, it is said all the same."""
    world = healthy()
    world.hold("client", SAVED)
    judgement = world.run(1.0)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert f"client {SAVED}" in judgement.reasons[0]


def test_a_machine_may_boot_as_long_as_it_takes() -> None:
    """One that somebody has reset is not taken back before its agent speaks, and has a launch's time from then on."""
    world = healthy()
    since_s = world.now_s
    world.reset("db")
    judgement = world.run(60.0)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reasons[0].startswith("db has started anew, and its agent has not spoken since")
    world.booted("db")
    world.run(60.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.history[-1][1].verdict is Verdict.OK


def test_a_machine_that_never_boots_is_found() -> None:
    """There is an end to it."""
    world = healthy()
    world.reset("db")
    found_s = world.until(Verdict.FAILED, within_s=2 * BOOT_S)
    assert found_s is not None
    assert found_s >= BOOT_S
    assert world.culprits() == ["db"]


def test_a_machine_that_is_reset_for_ever_is_found() -> None:
    """That it has started anew once more spares it a few times only, and then no longer."""
    world = healthy()
    since_s = world.now_s
    for number in range(4):
        world.reset("db", incarnation=f"loop {number}")
        world.run(12.0)
    assert Verdict.FAILED in world.verdicts(since_s=since_s)
    assert world.culprits() == ["db"]


def test_what_was_booting_is_not_spared_after_its_rollback() -> None:
    """Whoever takes back a machine that boots ends that: what is broken afterwards is found as soon as ever."""
    world = healthy()
    world.reset("db")
    world.run(2.0)
    world.stack.instance(world.vcd("db"), Power.RUNNING, "back", expected=True, now_s=world.now_s)
    world.broken.add("db")
    world.booted("db")
    assert world.until(Verdict.FAILED, within_s=BOOT_S / 2) is not None


def test_what_a_reset_did_not_mend_is_found() -> None:
    """Once the agent speaks, the time is that of a launch."""
    world = healthy()
    world.reset("db")
    world.run(30.0)
    world.broken.add("db")
    world.booted("db")
    assert world.until(Verdict.FAILED, within_s=30.0) is not None
    assert world.culprits() == ["db"]


def test_reverts_by_hand_are_no_crash_loop() -> None:
    """Who tries one snapshot after the other is not interrupted."""
    world = healthy()
    since_s = world.now_s
    db = world.vcd("db")
    for number in range(6):
        world.stack.instance(
            db, Power.RUNNING, f"try {number}", expected=False, now_s=world.now_s, reverted=True
        )
        world.connect("db")
        world.run(2.0)
    world.run(30.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)


def test_a_machine_that_is_started_for_ever_is_a_crash_loop_all_the_same() -> None:
    """That it is seen while it starts, which might be somebody's doing, forgives no more restarts."""
    world = healthy()
    for number in range(8):
        world.hold("db", "is being started or taken back", incarnation=f"loop {number}")
        world.run(0.5)
        world.broken.add("db")
        world.let_go("db", incarnation=f"loop {number}")
        world.connect("db")
        world.run(3.5)
    assert world.until(Verdict.FAILED, within_s=10.0) is not None
    assert world.culprits() == ["db"]


def test_one_that_was_taken_back_before_its_launch_is_launched_like_all() -> None:
    """What somebody did with a machine before the stack was there gives it no other begin."""
    world = healthy()
    world.new_manager()
    db = world.vcd("db")
    begun_s = db.started_s
    world.stack.instance(db, Power.RUNNING, "first", expected=False, now_s=world.now_s, reverted=True)
    assert db.started_s == begun_s
