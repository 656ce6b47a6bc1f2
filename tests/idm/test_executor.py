"""Commands, carried out exactly once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dm.v1.rollback_service_pb2 import Command, Revert, SaveEvidence
from idm.executor import Executor
from idm.home import Home, locate
from idm.journal import Journal
from tests.idm.memory import MemoryDriver
from tests.idm.until import until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    home = locate("shop", ["api", "db"], state=tmp_path / "s", run=tmp_path / "r")
    home.create()
    return home


@pytest.fixture
def driver() -> MemoryDriver:
    """Two running VCDs with two snapshots."""
    driver = MemoryDriver()
    for vcd in ("api", "db"):
        driver.start(vcd)
    driver.snapshot(["api", "db"], tag="g1-old", golden="g1")
    driver.snapshot(["api", "db"], tag="g1-new", golden="g1")
    return driver


class Expectations:
    """What the executor says about generations."""

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.changes = 0

    def expect(self, vcd: str, generation: int) -> None:
        self.generations[vcd] = generation

    def changed(self) -> None:
        self.changes += 1


@contextmanager
def _executor(driver: MemoryDriver, home: Home, heard: Expectations) -> Iterator[Executor]:
    with Journal(home.journal) as journal:
        yield Executor(driver, journal, home, expect=heard.expect, changed=heard.changed)


def _revert(token: int, *vcds: str, excluded: tuple[str, ...] = ()) -> Command:
    generations = dict.fromkeys(vcds, 5)
    action = Revert(vcds=vcds, golden="g1", excluded=excluded, generations=generations)
    return Command(operation=f"op{token}", token=token, revert=action)


def test_revert_uses_the_newest_snapshot_and_says_so(driver: MemoryDriver, home: Home) -> None:
    """All listed VCDs are taken back to the newest snapshot; agents are expected with the new generation."""
    heard = Expectations()
    with _executor(driver, home, heard) as executor:
        result = asyncio.run(executor.carry_out(_revert(1, "db", "api")))
    assert (result.problem, result.snapshot) == ("", "g1-new")
    assert sorted(driver.restored) == [("api", "g1-new"), ("db", "g1-new")]
    assert heard.generations == {"api": 5, "db": 5}
    assert heard.changes == 2


def test_repeated_command_is_answered_from_the_journal(driver: MemoryDriver, home: Home) -> None:
    """The same token again, even for another deployer process, does nothing and gets the same answer."""
    with _executor(driver, home, Expectations()) as executor:
        first = asyncio.run(executor.carry_out(_revert(1, "api")))
    with _executor(driver, home, Expectations()) as executor:
        assert asyncio.run(executor.carry_out(_revert(1, "api"))) == first
    assert driver.restored == [("api", "g1-new")]


def test_older_or_foreign_token_is_void(driver: MemoryDriver, home: Home) -> None:
    """A token older than the newest, or one that belongs to another operation, restores nothing."""
    with _executor(driver, home, Expectations()) as executor:
        asyncio.run(executor.carry_out(_revert(3, "api")))
        assert asyncio.run(executor.carry_out(_revert(2, "db"))).problem.startswith(
            "void: token 2 is older than 3"
        )
        foreign = _revert(3, "db")
        foreign.operation = "another"
        assert asyncio.run(executor.carry_out(foreign)).problem.startswith(
            "void: token 3 was used for operation op3"
        )
    assert driver.restored == [("api", "g1-new")]


def test_interrupted_command_is_resumed_where_it_stood(driver: MemoryDriver, home: Home) -> None:
    """What was restored before the deployer died is not restored again, and the snapshot stays the one chosen."""
    with Journal(home.journal) as journal:
        journal.begin(4, operation="op4", action="revert")
        journal.choose(4, snapshot="g1-old")
        for vcd in ("db", "api"):
            journal.begin_step(4, vcd)
        journal.finish_step(4, "db")
    heard = Expectations()
    with _executor(driver, home, heard) as executor:
        result = asyncio.run(executor.carry_out(_revert(4, "db", "api")))
    assert (result.problem, result.snapshot) == ("", "g1-old")
    assert driver.restored == [("api", "g1-old")]
    assert heard.generations == {"api": 5, "db": 5}


def test_several_are_restored_at_once(driver: MemoryDriver, home: Home) -> None:
    """Nobody waits for another VCD's restore: both are begun before either may end."""
    driver.may_restore.clear()

    async def story() -> None:
        with Journal(home.journal) as journal:
            heard = Expectations()
            executor = Executor(driver, journal, home, expect=heard.expect, changed=heard.changed)
            work = asyncio.create_task(executor.carry_out(_revert(1, "db", "api")))
            await until(lambda: heard.generations.keys() == {"db", "api"})
            assert driver.restored == []
            driver.may_restore.set()
            assert (await work).problem == ""

    asyncio.run(story())


def test_problems_are_told_in_one_line(driver: MemoryDriver, home: Home) -> None:
    """A driver that refuses, or a missing snapshot, becomes the result's problem; the other VCD is restored."""
    driver.broken = ("db",)
    with _executor(driver, home, Expectations()) as executor:
        refused = asyncio.run(executor.carry_out(_revert(1, "db", "api")))
        exhausted = asyncio.run(executor.carry_out(_revert(2, "api", excluded=("g1-old", "g1-new"))))
    assert refused.problem == "db: db cannot be restored: try again"
    assert driver.restored == [("api", "g1-new")]
    assert exhausted.problem.startswith("every snapshot of golden image g1 was tried")


def test_evidence_is_saved_and_its_failure_reported(driver: MemoryDriver, home: Home) -> None:
    """The graph and each VCD's state are written; a VCD that cannot be inspected is told but holds up nothing."""
    driver.broken = ("db",)
    action = SaveEvidence(vcds=["api", "db"], graph='{"edges": []}')
    with _executor(driver, home, Expectations()) as executor:
        result = asyncio.run(executor.carry_out(Command(operation="op1", token=1, save_evidence=action)))
    assert result.problem == "db: db cannot be inspected: is it there?"
    assert Path(result.evidence, "graph.json").read_text() == '{"edges": []}'
    assert Path(result.evidence, "api", "state.txt").read_text() == "running"


def test_evidence_that_takes_too_long_is_left(
    driver: MemoryDriver, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence is given up after its time, so that it cannot block a rollback."""
    monkeypatch.setattr("idm.executor.EVIDENCE_S", 0.1)
    monkeypatch.setattr(driver, "evidence", lambda *_: driver.may_restore.wait(10))
    driver.may_restore.clear()

    async def story() -> str:
        with Journal(home.journal) as journal:
            executor = Executor(driver, journal, home, expect=lambda *_: None, changed=lambda: None)
            action = SaveEvidence(vcds=["api"], graph="{}")
            result = await executor.carry_out(Command(operation="op1", token=1, save_evidence=action))
        driver.may_restore.set()
        return result.problem

    assert "evidence was not complete" in asyncio.run(story())


def test_the_managers_own_machine_is_spared(driver: MemoryDriver, home: Home) -> None:
    """Nothing is taken back when one of them holds the manager, and it says so."""
    with Journal(home.journal) as journal:
        executor = Executor(driver, journal, home, expect=lambda *_: None, changed=lambda: None, seat="db")
        result = asyncio.run(executor.carry_out(_revert(1, "api", "db")))
    assert result.problem.startswith("db holds the manager")
    assert driver.restored == []


def test_killed_restore_is_done_again(driver: MemoryDriver, home: Home) -> None:
    """A deployer that ends in the middle of a restore does it again when it is asked next, to the same snapshot."""
    driver.may_restore.clear()

    async def interrupted() -> None:
        with Journal(home.journal) as journal:
            heard = Expectations()
            executor = Executor(driver, journal, home, expect=heard.expect, changed=heard.changed)
            work = asyncio.create_task(executor.carry_out(_revert(1, "api")))
            await until(lambda: heard.generations)
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            driver.broken = ("api",)
            driver.may_restore.set()

    asyncio.run(interrupted())
    driver.broken = ()
    with _executor(driver, home, Expectations()) as executor:
        assert asyncio.run(executor.carry_out(_revert(1, "api"))).problem == ""
    assert driver.restored == [("api", "g1-new")]
