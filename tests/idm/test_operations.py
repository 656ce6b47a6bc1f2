"""Rollbacks as people follow them."""

import asyncio
from pathlib import Path

import pytest

from dm.v1.rollback_service_pb2 import ROLLBACK_PHASE_DONE, ROLLBACK_PHASE_REVERT, Rollback
from idm.errors import DeployError
from idm.home import locate
from idm.manifest import Manifest, Network, Vcd
from idm.manifest import Stack as StackTable
from idm.operations import follow
from idm.stack import Stack
from tests.idm.memory import MemoryDriver
from tests.idm.server import SmallManager
from tests.idm.until import until


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack whose manager is not there yet."""
    home = locate("shop", ["db"], state=tmp_path / "s", run=tmp_path / "r")
    home.create()
    manifest = Manifest(
        stack=StackTable(name="shop"), network=Network(subnet="198.18.1.0/24"), vcd={"db": Vcd(image="i")}
    )
    return Stack(manifest, "f", home, MemoryDriver())


def test_an_operation_is_followed_through_a_restart_of_the_manager(stack: Stack) -> None:
    """Who follows does not give up while the manager is away, and shows every step that it tells."""
    manager, seen = SmallManager(), list[int]()
    manager.rollbacks = [Rollback(operation="op", phase=ROLLBACK_PHASE_REVERT)]

    async def story() -> None:
        def show(rollback: Rollback) -> None:
            seen.append(rollback.phase)

        following = asyncio.create_task(follow(stack, "op", show, timeout_s=30))
        async with manager.serving(stack.home.socket):
            await until(lambda: seen)
        assert not following.done()
        manager.rollbacks = [Rollback(operation="op", phase=ROLLBACK_PHASE_DONE)]
        async with manager.serving(stack.home.socket):
            assert (await following).phase == ROLLBACK_PHASE_DONE

    asyncio.run(story())
    assert set(seen) == {ROLLBACK_PHASE_REVERT, ROLLBACK_PHASE_DONE}


def test_an_operation_without_an_end_is_told_with_the_last_problem(stack: Stack) -> None:
    """When time is up and no manager has answered, that is what is told."""
    with pytest.raises(DeployError, match=r"operation op has not ended after 1 s: no manager answers at"):
        asyncio.run(follow(stack, "op", lambda _: None, timeout_s=1))
