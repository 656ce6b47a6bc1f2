"""The stream to the manager, over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dm.v1.rollback_service_pb2 import Command, CommandResult, InstanceReport
from dm.v1.stack_pb2 import POWER_CRASHED, POWER_RUNNING, StackSpec
from idm.attend import Attendant
from idm.manager import Access
from tests.idm.server import SmallManager
from tests.idm.until import until


class Deployer:
    """The deployer's side: what the attendant asks for and reports back."""

    def __init__(self, socket: Path) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self.generations: list[dict[str, int]] = []
        self.attendant = Attendant(
            Access(f"unix:{socket}"),
            declare=lambda: StackSpec(name="shop"),
            reports=lambda: [InstanceReport(vcd="db", power=POWER_RUNNING, incarnation="1")],
            carry_out=self._carry_out,
            on_applied=lambda response: self.generations.append(dict(response.generations)),
            on_rollback=lambda _: None,
        )

    async def _carry_out(self, command: Command) -> CommandResult:
        self.begun.append(command.token)
        await self.may_finish.wait()
        self.done.append(command.token)
        return CommandResult(operation=command.operation, token=command.token)


@asynccontextmanager
async def _attending(deployer: Deployer) -> AsyncIterator[None]:
    task = asyncio.create_task(deployer.attendant.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_stream_begins_with_who_and_what(tmp_path: Path) -> None:
    """The stack is declared, then Attach comes first, then every instance, then changes and signs of life."""

    async def story() -> None:
        manager, deployer = SmallManager({"db": 3}), Deployer(tmp_path / "s")
        async with manager.serving(tmp_path / "s"), _attending(deployer):
            await until(lambda: manager.items("instance"))
            deployer.attendant.tell(InstanceReport(vcd="db", power=POWER_CRASHED))
            await until(lambda: len(manager.items("instance")) == 2 and manager.items("still_there"))
            assert [spec.name for spec in manager.applied] == ["shop"]
            assert deployer.generations == [{"db": 3}]
            assert manager.heard[0].attach.stack == "shop"
            assert manager.heard[1].instance.incarnation == "1"
            assert manager.items("instance")[1].instance.power == POWER_CRASHED

    asyncio.run(story())


def test_command_is_carried_out_and_answered(tmp_path: Path) -> None:
    """A command's result goes back on the stream; meanwhile the stream shows signs of life."""

    async def story() -> None:
        manager, deployer = SmallManager(), Deployer(tmp_path / "s")
        deployer.may_finish.clear()
        async with manager.serving(tmp_path / "s"), _attending(deployer):
            manager.commands.put_nowait(Command(operation="op", token=1))
            await until(lambda: manager.items("still_there"))
            assert not manager.items("result")
            deployer.may_finish.set()
            await until(lambda: manager.items("result"))
            assert manager.items("result")[0].result.token == 1
            async with asyncio.timeout(5):
                await deployer.attendant.idle()

    asyncio.run(story())


def test_everything_is_said_again_to_the_next_manager(tmp_path: Path) -> None:
    """After the manager died, the deployer comes back by itself, declares the stack again and reports all instances.

    A command under way when the stream broke is finished, and the next manager gets its result.
    """

    async def story() -> None:
        first, second, deployer = SmallManager(), SmallManager({"db": 9}), Deployer(tmp_path / "s")
        deployer.may_finish.clear()
        async with _attending(deployer):
            async with first.serving(tmp_path / "s"):
                first.commands.put_nowait(Command(operation="op", token=1))
                await until(lambda: first.items("instance") and deployer.begun)
            async with second.serving(tmp_path / "s"):
                await until(lambda: second.items("instance"))
                assert len(second.applied) == 1
                assert deployer.generations[-1] == {"db": 9}
                assert second.heard[0].attach.session == first.heard[0].attach.session
                deployer.may_finish.set()
                second.commands.put_nowait(Command(operation="op", token=2))
                await until(lambda: [each.result.token for each in second.items("result")] == [1, 2])
                assert deployer.done == [1, 2]

    asyncio.run(story())
