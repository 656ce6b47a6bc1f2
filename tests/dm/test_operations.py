"""Rollback operations: decided, led through their phases, stored before each step."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dm.operations import EVIDENCE_MS, OperationError, Operations
from dm.rollback import NOBODY, Limits, Mode, Outcome, Phase
from dm.store.sqlite import Event, Store
from dm.v1 import rollback_service_pb2 as pb
from dm.verdict import Verdict
from tests.dm.test_stack import healthy
from tests.sim.world import World

AUTO = Limits(mode=Mode.AUTO, attempts_per_vcd=2, attempts_per_stack=3, at_once=1, cooldown_ms=1000)


class Desk:
    """A world, its operations, and what they send and tell."""

    def __init__(self, path: Path, limits: Limits = AUTO, world: World | None = None) -> None:
        self.path = path
        self.world = world or healthy()
        self.sent: list[pb.Command] = []
        self.told: list[Event] = []
        self.attended = True
        self.store = Store(path)
        self.operations = self.restarted(limits)

    def restarted(self, limits: Limits = AUTO) -> Operations:
        """The manager was killed; another reads the same file."""
        self.operations = Operations(
            self.world.stack, limits, self.store, send=self.sent.append, tell=self.told.append
        )
        return self.operations

    def now_ms(self) -> int:
        """The world's time."""
        return round(self.world.now_s * 1000)

    def run(self, seconds: float) -> None:
        """Let time pass, judging and acting as the manager does."""
        end_s = self.world.now_s + seconds
        while self.world.now_s < end_s:
            judgement = self.world.run(0.25)
            self.operations.consider(
                judgement, attended=self.attended, now_s=self.world.now_s, now_ms=self.now_ms()
            )

    def answer(self, *, problem: str = "", snapshot: str = "", evidence: str = "") -> None:
        """The deployer answers the last command."""
        command = self.sent[-1]
        result = pb.CommandResult(
            operation=command.operation,
            token=command.token,
            problem=problem,
            snapshot=snapshot,
            evidence=evidence,
        )
        self.operations.result(result, now_ms=self.now_ms())

    def outcomes(self) -> list[Outcome]:
        """How the operations ended, oldest first."""
        return [operation.outcome for operation in reversed(self.store.operations())]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A healthy shop under automatic guard."""
    one = Desk(tmp_path / "dm.sqlite")
    with one.store:
        yield one


def test_nothing_is_begun_while_nobody_attends(desk: Desk) -> None:
    """As when machines are halted on purpose: it is told once, counts as no attempt, and begins with a deployer."""
    desk.attended = False
    desk.world.broken.add("db")
    desk.run(60)
    assert (desk.sent, desk.outcomes()) == ([], [])
    assert [event.message for event in desk.told if event.kind == "no rollback"] == [NOBODY]
    desk.attended = True
    desk.run(1)
    assert desk.sent[-1].WhichOneof("action") == "save_evidence"


def test_a_fault_is_led_to_its_recovery(desk: Desk) -> None:
    """Evidence, then the revert with the image's snapshot, then the graph is whole: recovered."""
    desk.world.broken.add("db")
    desk.run(5.0)
    assert list(desk.sent[-1].save_evidence.vcds) == ["db"]
    desk.answer(evidence="/evidence")
    revert = desk.sent[-1].revert
    assert desk.operations.current is not None
    assert (list(revert.vcds), revert.golden) == (["db"], desk.operations.current.golden)
    desk.world.broken.clear()
    desk.world.restart("db", down_s=0.5)
    desk.answer(snapshot="snap")
    desk.run(5.0)
    assert desk.outcomes() == [Outcome.RECOVERED]
    operation = desk.store.operations()[0]
    assert operation.snapshot == "snap"
    assert operation.fault_ms < operation.decided_ms < operation.reverted_ms < operation.ended_ms


def test_a_verdict_of_ok_alone_is_no_recovery(desk: Desk) -> None:
    """Edges to the machine that was taken back have to be called on again before the stack counts as recovered."""
    desk.world.broken.add("db")
    desk.run(5.0)
    desk.answer()
    desk.world.hung |= {"api", "worker"}
    desk.world.broken.clear()
    desk.world.restart("db", down_s=0.5)
    desk.answer(snapshot="snap")
    desk.run(3.0)
    assert desk.outcomes() == [Outcome.NONE]
    desk.world.hung.clear()
    desk.run(5.0)
    assert desk.outcomes() == [Outcome.RECOVERED]


def test_a_machine_that_somebody_takes_in_hand_is_left_to_him(desk: Desk) -> None:
    """Whoever begins to work on it while evidence is saved keeps it, unless a person asked for the rollback."""
    how = "was taken back to a snapshot and stands still: virsh resume it"
    desk.world.broken.add("db")
    desk.run(5.0)
    desk.world.hold("db", how)
    desk.answer(evidence="/evidence")
    assert [command.WhichOneof("action") for command in desk.sent] == ["save_evidence"]
    assert desk.outcomes() == [Outcome.CANCELLED]
    assert desk.store.operations()[0].detail == f"db {how}"
    desk.operations.request(["db"], now_ms=desk.now_ms())
    desk.answer(evidence="/evidence")
    assert desk.sent[-1].WhichOneof("action") == "revert"


def test_a_stack_that_recovers_while_evidence_is_saved_is_left_alone(desk: Desk) -> None:
    """What the deployer answers then leads to no revert."""
    desk.world.broken.add("db")
    desk.run(5.0)
    assert desk.sent[-1].WhichOneof("action") == "save_evidence"
    desk.world.broken.clear()
    desk.run(5.0)
    desk.answer(evidence="/evidence")
    assert desk.outcomes() == [Outcome.CANCELLED]
    assert [command.WhichOneof("action") for command in desk.sent] == ["save_evidence"]


def test_a_killed_manager_goes_on_and_repeats_only_the_same_command(desk: Desk) -> None:
    """After a restart the command under way is sent again with its own token, so that nothing is done twice."""
    desk.world.broken.add("db")
    desk.run(5.0)
    desk.answer()
    before = desk.sent[-1]
    desk.restarted().attached()
    assert desk.sent[-1] == before
    assert desk.operations.current is not None
    assert desk.operations.current.phase is Phase.REVERT


def test_a_revert_that_does_not_help_is_tried_within_limits_and_then_given_up(desk: Desk) -> None:
    """Still bad, then another snapshot, then a person is needed; never the same snapshot again."""
    desk.world.broken.add("db")
    desk.run(5.0)
    for snapshot in ("first", "second"):
        desk.answer()
        desk.answer(snapshot=snapshot)
        desk.run(45.0)
    assert desk.outcomes() == [Outcome.STILL_BAD, Outcome.STILL_BAD, Outcome.GAVE_UP]
    reverts = [command.revert for command in desk.sent if command.WhichOneof("action") == "revert"]
    assert [list(revert.excluded) for revert in reverts] == [[], ["first"]]
    desk.run(60.0)
    assert len(desk.outcomes()) == 3


def test_a_failed_revert_is_told_apart(desk: Desk) -> None:
    """What the deployer could not do is an outcome of its own, with the deployer's words."""
    desk.world.broken.add("db")
    desk.run(5.0)
    desk.answer()
    desk.answer(problem="the snapshot is missing: run `idm capture`")
    assert desk.outcomes() == [Outcome.REVERT_FAILED]
    assert desk.store.operations()[0].detail == "the snapshot is missing: run `idm capture`"


def test_a_machine_that_cannot_be_taken_back_is_given_up_at_once(desk: Desk) -> None:
    """No rollback is begun that its deployer would refuse; it is told once, in the deployer's words."""
    desk.world.stack.vcds["db"].unrevertible = "db is not there: idm up makes it"
    desk.world.broken.add("db")
    desk.run(60.0)
    assert (desk.sent, desk.outcomes()) == ([], [Outcome.GAVE_UP])
    assert desk.store.operations()[0].detail == "db is not there: idm up makes it"
    desk.world.stack.vcds["db"].unrevertible = ""
    desk.run(1.0)
    assert desk.sent[-1].WhichOneof("action") == "save_evidence"


def test_evidence_that_never_comes_does_not_hold_up_the_revert(desk: Desk) -> None:
    """After its deadline the revert is ordered without evidence."""
    desk.world.broken.add("db")
    desk.run(5.0)
    desk.run(EVIDENCE_MS / 1000 + 1)
    assert desk.sent[-1].WhichOneof("action") == "revert"


def test_an_answer_to_an_older_command_is_void(desk: Desk) -> None:
    """A result with another token changes nothing."""
    desk.world.broken.add("db")
    desk.run(5.0)
    stale = pb.CommandResult(operation=desk.sent[-1].operation, token=desk.sent[-1].token - 1)
    desk.operations.result(stale, now_ms=desk.now_ms())
    assert desk.operations.current is not None
    assert desk.operations.current.phase is Phase.EVIDENCE


@pytest.mark.parametrize(("approve", "outcome"), [(False, Outcome.CANCELLED), (True, Outcome.NONE)])
def test_with_approval_a_person_decides(tmp_path: Path, *, approve: bool, outcome: Outcome) -> None:
    """In the mode approve nothing is sent before a person says so."""
    desk = Desk(tmp_path / "dm.sqlite", AUTO._replace(mode=Mode.APPROVE))
    with desk.store:
        desk.world.broken.add("db")
        desk.run(5.0)
        assert desk.sent == []
        assert desk.operations.current is not None
        desk.operations.resolve(desk.operations.current.id, approve=approve, now_ms=desk.now_ms())
        assert bool(desk.sent) is approve
        assert desk.store.operations()[0].outcome is outcome


def test_a_stack_that_recovers_by_itself_needs_no_approval(tmp_path: Path) -> None:
    """An operation that waits for a person ends when there is nothing left to do."""
    desk = Desk(tmp_path / "dm.sqlite", AUTO._replace(mode=Mode.APPROVE))
    with desk.store:
        desk.world.broken.add("db")
        desk.run(5.0)
        desk.world.broken.clear()
        desk.run(5.0)
        assert desk.outcomes() == [Outcome.CANCELLED]


@pytest.mark.parametrize("switch", ["manifest", "guard"])
def test_an_observer_only_tells(tmp_path: Path, switch: str) -> None:
    """In the mode observe, by manifest or by the kill switch, nothing is ever sent, and the reason is told once."""
    desk = Desk(tmp_path / "dm.sqlite", AUTO._replace(mode=Mode.OBSERVE) if switch == "manifest" else AUTO)
    with desk.store:
        if switch == "guard":
            desk.store.put_guard("world", "observe")
        desk.world.broken.add("db")
        desk.run(20.0)
        assert desk.world.history[-1][1].verdict is Verdict.FAILED
        assert (desk.sent, desk.outcomes()) == ([], [])
        assert [event.kind for event in desk.told] == ["no rollback"]


def test_more_culprits_than_allowed_at_once_need_a_person(desk: Desk) -> None:
    """Two machines at once are not rolled back when only one may be."""
    desk.world.broken |= {"cache", "queue"}
    desk.run(8.0)
    assert desk.sent == []
    assert desk.outcomes() == [Outcome.GAVE_UP]


def test_two_culprits_are_taken_back_together_when_allowed(tmp_path: Path) -> None:
    """With at_once of two, one operation takes both back."""
    desk = Desk(tmp_path / "dm.sqlite", AUTO._replace(at_once=2))
    with desk.store:
        desk.world.broken |= {"cache", "queue"}
        desk.run(8.0)
        assert sorted(desk.sent[-1].save_evidence.vcds) == ["cache", "queue"]


def test_what_others_need_is_taken_back_first(desk: Desk) -> None:
    """The order of a rollback follows the golden image: the database before the api that calls it."""
    assert desk.operations._in_order(["web", "api", "db"]) == ("db", "api", "web")


def test_by_hand_only_known_machines_can_be_rolled_back(desk: Desk) -> None:
    """A wrong name is refused in words, a right one begins an operation without a verdict."""
    with pytest.raises(OperationError, match="nosuch is no VCD"):
        desk.operations.request(["nosuch"], now_ms=desk.now_ms())
    assert desk.operations.request(["db"], now_ms=desk.now_ms()).manual
    with pytest.raises(OperationError, match="under way"):
        desk.operations.request(["db"], now_ms=desk.now_ms())
