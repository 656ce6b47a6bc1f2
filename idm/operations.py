"""Rollbacks as people ask for them: by hand, approved or refused, followed to their end."""

import asyncio
from collections.abc import Callable, Sequence

from dm.client import ManagerError
from dm.v1.rollback_service_pb2 import (
    ROLLBACK_PHASE_DONE,
    ListRollbacksRequest,
    RequestRollbackRequest,
    ResolveRollbackRequest,
    Rollback,
    SetGuardRequest,
)
from dm.v1.rollback_service_pb2_grpc import RollbackServiceStub
from dm.v1.stack_pb2 import RollbackMode
from idm.errors import DeployError
from idm.lock import holder
from idm.manager import CALL_S, call
from idm.stack import Stack

LOOK_S = 0.25


async def history(stack: Stack, *, limit: int) -> list[Rollback]:
    """The stack's operations, newest first. Raises ``ManagerError``."""
    request = ListRollbacksRequest(stack=stack.name, limit=limit)
    reply = await call(
        stack.operator(), lambda channel: RollbackServiceStub(channel).ListRollbacks(request, timeout=CALL_S)
    )
    return list(reply.rollbacks)


async def roll_back(stack: Stack, vcds: Sequence[str]) -> Rollback:
    """Ask for a rollback. Raises :class:`DeployError` when nobody would carry it out, ``ManagerError`` when refused."""
    if unknown := sorted(set(vcds) - set(stack.vcds)):
        raise DeployError(f"no such VCD: {', '.join(unknown)} (the stack has {', '.join(stack.vcds)})")
    if stack.seat in vcds:
        raise DeployError(
            f"{stack.seat} holds the manager, and is never rolled back by it: take it back by hand"
        )
    if (deployer := holder(stack.home.deployer_lock)) is None:
        raise DeployError(f"nobody deploys {stack.name}, so nothing would be rolled back: start `idm watch`")
    deployer.close()
    request = RequestRollbackRequest(stack=stack.name, vcds=vcds)
    reply = await call(
        stack.operator(),
        lambda channel: RollbackServiceStub(channel).RequestRollback(request, timeout=CALL_S),
    )
    return reply.rollback


async def resolve(stack: Stack, operation: str, *, approve: bool) -> Rollback:
    """Approve or refuse an operation that waits. Raises ``ManagerError``."""
    request = ResolveRollbackRequest(operation=operation, approve=approve)
    reply = await call(
        stack.operator(),
        lambda channel: RollbackServiceStub(channel).ResolveRollback(request, timeout=CALL_S),
    )
    return reply.rollback


async def set_guard(stack: Stack, mode: RollbackMode.ValueType) -> None:
    """Say how far the manager may go from now on. Raises ``ManagerError``."""
    request = SetGuardRequest(stack=stack.name, mode=mode)
    await call(
        stack.operator(), lambda channel: RollbackServiceStub(channel).SetGuard(request, timeout=CALL_S)
    )


async def follow(
    stack: Stack, operation: str, show: Callable[[Rollback], None], *, timeout_s: float
) -> Rollback:
    """Show each step of an operation and return its end. Raises :class:`DeployError` when there is none in time.

    A manager that is away for a while, as while it is restarted, goes on with the operation when it is back.
    """
    last = "see `idm history`"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    rollback = await _find(stack, operation)
                except ManagerError as e:
                    last = str(e)
                else:
                    show(rollback)
                    if rollback.phase == ROLLBACK_PHASE_DONE:
                        return rollback
                await asyncio.sleep(LOOK_S)
    except TimeoutError as e:
        raise DeployError(f"operation {operation} has not ended after {timeout_s:.0f} s: {last}") from e


async def _find(stack: Stack, operation: str) -> Rollback:
    """One operation as it is now."""
    for rollback in await history(stack, limit=0):
        if rollback.operation == operation:
            return rollback
    raise DeployError(f"operation {operation} is not known: `idm history` lists them")
