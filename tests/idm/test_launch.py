"""Bringing a stack up, on a real manager."""

import asyncio
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dm.v1.rollback_service_pb2 import ROLLBACK_OUTCOME_STILL_BAD, Rollback
from dm.v1.stack_pb2 import (
    POWER_RUNNING,
    VERDICT_FAILED,
    VERDICT_LAUNCHING,
    VERDICT_OK,
    Status,
)
from dm.v1.stack_service_pb2 import GetGraphRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.down import down
from idm.errors import DeployError
from idm.home import Home, locate
from idm.launch import Sight, order, up
from idm.lock import lock
from idm.manager import Access, call
from idm.manifest import Manifest, Mode, Network, Smoke, Vcd
from idm.manifest import Stack as StackTable
from idm.process import marked
from idm.progress import Progress
from idm.stack import Stack
from tests.idm.memory import MemoryDriver


def _manifest(smoke: Smoke | None = None) -> Manifest:
    vcds = {"web": Vcd(name="web", image="i", after=("db",)), "db": Vcd(name="db", image="i")}
    network = Network(subnet="198.18.1.0/24")
    return Manifest(stack=StackTable(name="shop"), network=network, vcd=vcds, smoke=smoke)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home whose children are ended after the test."""
    home = locate("shop", ["web", "db"], state=tmp_path / "s", run=tmp_path / "r")
    home.create()
    yield home
    for process in marked(home.run):
        with process:
            process.end(grace_s=2.0)


async def _powers(home: Home) -> dict[str, int]:
    request = GetGraphRequest(stack="shop")
    graph = await call(
        Access(home.target), lambda channel: StackServiceStub(channel).GetGraph(request, timeout=5)
    )
    return {node.name: node.power for node in graph.nodes}


def test_stack_without_golden_image_is_up_when_it_runs_and_the_smoke_passes(home: Home) -> None:
    """A first launch ends well, says what comes next, and leaves its manager running; down leaves nothing."""
    driver, shown, said = MemoryDriver(), StringIO(), list[str]()
    stack = Stack(_manifest(smoke=Smoke(vcd="web", command=("/bin/smoke",))), "f" * 64, home, driver)

    async def story() -> None:
        async def on_success(line: str) -> None:
            said.append(line)
            async with asyncio.timeout(5):
                while await _powers(home) != {"db": POWER_RUNNING, "web": POWER_RUNNING}:
                    continue

        with Progress(Console(file=shown)) as progress:
            await up(stack, progress, deadline_s=20, on_success=on_success)
        await down(stack, keep_snapshots=False)
        await down(stack, keep_snapshots=False)

    asyncio.run(story())
    assert said == [
        "the stack runs; no golden image fits it yet: `idm capture` learns one and takes snapshots"
    ]
    assert "the smoke workload passed" in shown.getvalue()
    assert marked(home.run) == []
    assert not home.run.exists()
    assert home.manager_store.exists()
    assert driver.present == {}


def test_only_one_deploys(home: Home) -> None:
    """A second deployer of a stack is refused before it touches anything."""
    driver = MemoryDriver()
    stack = Stack(_manifest(), "f" * 64, home, driver)

    async def ignore(line: str) -> None:
        raise AssertionError(line)

    with (
        Progress(Console(file=StringIO())) as progress,
        lock(home.deployer_lock, purpose="tests"),
        pytest.raises(DeployError, match="deploys this stack"),
    ):
        asyncio.run(up(stack, progress, deadline_s=5, on_success=ignore))
    assert driver.present == {}


def test_vcds_start_in_groups_behind_what_they_need() -> None:
    """Those that need nothing come first, and what is needed stands before what needs it."""
    assert order(_manifest()) == [("db",), ("web",)]


def _sight(**facts: object) -> Sight:
    return Sight(golden="g1", needs_smoke=True, mode=Mode.AUTO, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sight", "success", "failure"),
    [
        (_sight(smoke_passed=True, status=Status(verdict=VERDICT_OK)), "the stack is whole", ""),
        (_sight(smoke_passed=True, status=Status(verdict=VERDICT_LAUNCHING)), "", ""),
        (_sight(smoke_passed=True, status=Status(verdict=VERDICT_OK, operation="op1")), "", ""),
        (_sight(status=Status(verdict=VERDICT_OK)), "", ""),
        (_sight(smoke_passed=True, idle=("db",), status=Status(verdict=VERDICT_OK)), "", ""),
        (_sight(status=Status(verdict=VERDICT_FAILED)), "", ""),
        (
            _sight(failed_rollback=Rollback(vcds=["db"], outcome=ROLLBACK_OUTCOME_STILL_BAD, detail="why")),
            "",
            "rollback of db ended as still bad: why",
        ),
    ],
)
def test_launch_ends_only_when_it_is_decided(sight: Sight, success: str, failure: str) -> None:
    """A launch is over once all is whole and exercised, or once a rollback did not help; a failed stack may recover."""
    assert sight.success().startswith(success)
    assert bool(sight.success()) == bool(success)
    assert sight.failure().startswith(failure)
    assert bool(sight.failure()) == bool(failure)


def test_failed_stack_is_the_end_when_nobody_may_act() -> None:
    """In mode observe nothing will help a failed stack, so its launch ends, with the reasons."""
    status = Status(verdict=VERDICT_FAILED, reasons=["db refuses"])
    sight = Sight(golden="g1", needs_smoke=False, mode=Mode.OBSERVE, status=status)
    assert "the mode is observe: db refuses" in sight.failure()
