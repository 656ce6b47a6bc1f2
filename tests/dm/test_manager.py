"""The stacks in service."""

import asyncio
import time
from pathlib import Path

import pytest

from dm.golden import GoldenImage
from dm.manager import AgentQueue, Guarded, Manager, now_ms
from dm.policy import Policy
from dm.rollback import Limits, Mode, Outcome
from dm.stack import Spec
from dm.store.sqlite import Store

LIMITS = Limits(mode=Mode.AUTO, attempts_per_vcd=2, attempts_per_stack=3, at_once=1, cooldown_ms=1000)
SPEC = Spec("shop", "one", {"db": (), "web": ()}, Policy(), "first launch", 0.0)
WITHOUT_DB = SPEC._replace(vcds={"web": ()}, fingerprint="two", launch="second launch")


def taking_back(store: Store) -> tuple[Manager, Guarded]:
    """A manager that takes the database back."""
    image = GoldenImage(stack="shop", fingerprint="one", runs=1, smoke=False, vcds=("db", "web"), edges=())
    store.put_golden(image, created_ms=1)
    manager = Manager(store)
    guarded = manager.apply(SPEC, LIMITS)
    guarded.operations.request(["db"], now_ms=now_ms())
    return manager, guarded


@pytest.mark.parametrize("restarted", [False, True])
def test_a_launch_anew_ends_what_was_under_way(tmp_path: Path, restarted: bool) -> None:
    """Nothing is taken back in a launch that came after the fault, by a manager that was restarted neither."""
    with Store(tmp_path / "dm.sqlite") as store:
        manager, _ = taking_back(store)
        manager = Manager(store) if restarted else manager
        guarded = manager.apply(WITHOUT_DB, LIMITS)
        assert guarded.operations.current is None
        assert [operation.outcome for operation in store.operations("shop")] == [Outcome.CANCELLED]


def test_a_launch_of_the_same_machines_ends_what_was_under_way(tmp_path: Path) -> None:
    """A stack that was taken down in the middle of a rollback, and its manager with it, comes up without it."""
    with Store(tmp_path / "dm.sqlite") as store:
        taking_back(store)
        again = SPEC._replace(launch="second launch", launch_s=time.monotonic())
        assert Manager(store).apply(again, LIMITS).operations.current is None
        assert [operation.outcome for operation in store.operations("shop")] == [Outcome.CANCELLED]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_declaration_repeated_ends_nothing(tmp_path: Path, restarted: bool) -> None:
    """A deployer that comes back declares the same launch, and what is under way goes on."""
    with Store(tmp_path / "dm.sqlite") as store:
        manager, _ = taking_back(store)
        manager = Manager(store) if restarted else manager
        assert manager.apply(SPEC, LIMITS).operations.current is not None


def test_agents_that_run_on_tell_all_to_a_new_launch(tmp_path: Path) -> None:
    """Their streams end, since what they told is forgotten; a declaration that is repeated leaves them alone."""
    with Store(tmp_path / "dm.sqlite") as store:
        manager = Manager(store)
        guarded = manager.apply(SPEC, LIMITS)
        queue: AgentQueue = asyncio.Queue(1)
        manager.agent_came(guarded, guarded.stack.vcds["db"], queue)
        manager.apply(SPEC, LIMITS)
        assert (queue.empty(), guarded.agents) == (True, {"db": queue})
        manager.apply(SPEC._replace(launch="second launch"), LIMITS)
        assert (queue.get_nowait(), guarded.agents) == (None, {})
