"""Takes a stack down: ends what deploys it, its agents and its manager, and removes what runs it."""

import asyncio
import shutil
from contextlib import suppress

from dm.client import ManagerError
from dm.v1.stack_service_pb2 import RemoveStackRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.ca import CaError
from idm.delivery.agent import PATHS, UNIT
from idm.delivery.guest import withdraw
from idm.delivery.install import uninstall
from idm.delivery.manager import paths, unit
from idm.deployment import DEPLOYS
from idm.driver import DriverError, Power
from idm.home import Home
from idm.lock import holder, lock
from idm.manager import call
from idm.process import marked
from idm.stack import Stack
from idm.supervise import end_child

# A deployer first finishes the restore that it is at.
DEPLOYER_S = 25.0
CHILD_S = 3.0
FORGET_S = 3.0


def end_deployer(home: Home) -> None:
    """End whoever deploys the stack; blocking, harmless when nobody does."""
    if (process := holder(home.deployer_lock)) is not None:
        with process:
            process.end(grace_s=DEPLOYER_S)


async def down(stack: Stack, *, keep_snapshots: bool) -> list[str]:
    """Leave no process, socket, instance or network of the stack, whatever state it is in.

    Golden images and history stay, snapshots only if they are asked to. Returns a line for each existing domain in
    which something had to be left. Raises ``DriverError`` when the engine refuses.
    """
    home = stack.home
    await asyncio.to_thread(end_deployer, home)
    home.create()
    with lock(home.deployer_lock, purpose=DEPLOYS):
        await _forget(stack)
        left = await _withdraw_agents(stack)
        await asyncio.to_thread(end_children, home)
        try:
            await _remove(stack, keep_snapshots=keep_snapshots)
        finally:
            shutil.rmtree(home.run)
    return left


def end_children(home: Home) -> None:
    """End all children by their pid files, then whatever else carries their mark; blocking."""
    names = sorted(path.stem for path in home.run.glob("*.pid"))
    for name in [*(name for name in names if name != "dm"), "dm"]:
        end_child(home.run, name, grace_s=CHILD_S)
    for process in marked(home.run):
        with process:
            process.end(grace_s=CHILD_S)


async def _withdraw_agents(stack: Stack) -> list[str]:
    """Take the agents out of domains that stay; one that does not answer keeps its own, which is told."""
    if (guests := stack.guests) is None:
        return []
    try:
        present = await asyncio.to_thread(stack.driver.instances)
    except DriverError:
        # The removal will say so; what runs on this host is ended first.
        return []
    left: list[str] = []

    async def withdraw_agent(vcd: str) -> None:
        try:
            await asyncio.to_thread(withdraw, guests, vcd, UNIT, PATHS)
            if vcd == stack.seat:
                await asyncio.to_thread(withdraw, guests, vcd, unit(stack.name), paths(stack.name))
            await asyncio.to_thread(uninstall, guests, vcd)
        except DriverError as e:
            left.append(f"{vcd} keeps its agent: {e}")

    async with asyncio.TaskGroup() as tasks:
        for name, vcd in stack.manifest.vcd.items():
            if vcd.domain and name in present:
                if (power := present[name].power) is Power.RUNNING:
                    tasks.create_task(withdraw_agent(name))
                else:
                    advice = f"disable {UNIT} there, and delete /etc/stackmend"
                    left.append(f"{name} keeps its agent, since it is {power.value}: {advice}")
    return left


async def _remove(stack: Stack, *, keep_snapshots: bool) -> None:
    if not keep_snapshots:
        await asyncio.to_thread(stack.driver.remove)
        return
    async with asyncio.TaskGroup() as tasks:
        for vcd in stack.vcds:
            tasks.create_task(asyncio.to_thread(stack.driver.destroy, vcd))


async def _forget(stack: Stack) -> None:
    """Tell the manager to forget the stack, if it answers: it is about to end anyway."""
    if not stack.seat and not stack.home.socket.exists():
        return
    request = RemoveStackRequest(stack=stack.name)
    with suppress(ManagerError, CaError):
        await call(
            stack.deployer(), lambda channel: StackServiceStub(channel).RemoveStack(request, timeout=FORGET_S)
        )
