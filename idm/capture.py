"""Pairs what the manager has learned of a good launch with a snapshot of every VCD."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from dm.client import ManagerError
from dm.v1.golden_service_pb2 import CaptureGoldenRequest, CaptureGoldenResponse, DeleteGoldenRequest
from dm.v1.golden_service_pb2_grpc import GoldenServiceStub
from dm.v1.stack_service_pb2 import GetGraphRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.driver import DriverError, Snapshot
from idm.errors import DeployError
from idm.launch import last_line
from idm.lock import lock
from idm.manager import CALL_S, call
from idm.snapshots import expire, name_tag
from idm.stack import Stack

LOOK_S = 0.5
# A restore that is under way must be over by then.
LOCK_S = 60.0


async def run_smoke(stack: Stack) -> bool:
    """Run the smoke workload once; returns whether there is one. Raises :class:`DeployError` when it does not pass."""
    if (smoke := stack.manifest.smoke) is None:
        return False
    end = await asyncio.to_thread(stack.driver.execute, smoke.vcd, smoke.command, timeout_s=smoke.timeout_s)
    if end.status != 0:
        raise DeployError(f"nothing captured, the smoke workload does not pass: {last_line(end)}")
    return True


async def wait_until_quiet(stack: Stack, say: Callable[[str], None]) -> None:
    """Wait until no new edge has appeared for a while, and say what for.

    Raises :class:`DeployError` when they keep appearing.
    """
    wanted = stack.manifest.capture
    say(
        f"waiting until no new dependency has appeared for {wanted.quiet_s:g} s, for {wanted.within_s:g} s at most"
    )
    known = await _edges(stack)
    since = time.monotonic()
    deadline, newest = since + wanted.within_s, "none"
    while time.monotonic() - since < wanted.quiet_s:
        if time.monotonic() > deadline:
            raise DeployError(
                f"nothing captured, new dependencies still appear after {wanted.within_s:g} s (the last is {newest}): "
                "try again later, or raise capture.within_s in the manifest"
            )
        await asyncio.sleep(min(LOOK_S, wanted.quiet_s))
        if new := await _edges(stack) - known:
            known, since, newest = known | new, time.monotonic(), min(new)
            say(f"new: {', '.join(sorted(new))}")


async def capture(stack: Stack, *, smoke: bool, merge: bool) -> tuple[CaptureGoldenResponse, list[Snapshot]]:
    """Learn the golden image and snapshot all VCDs under it; neither stays without the other.

    Raises :class:`DeployError`, ``DriverError`` or ``ManagerError``.
    """
    target = stack.operator()
    request = CaptureGoldenRequest(stack=stack.name, merge=merge, smoke=smoke)
    learned = await call(
        target, lambda channel: GoldenServiceStub(channel).CaptureGolden(request, timeout=CALL_S)
    )
    golden = learned.golden
    tag = name_tag(golden.id, now=datetime.now(UTC))
    try:
        return learned, await asyncio.to_thread(_snapshot, stack, golden.id, tag)
    except (DriverError, DeployError) as e:
        raise DeployError(f"no snapshot could be taken, {await _undo(stack, golden.id)}: {e}") from e


def prune(stack: Stack, *, golden: str) -> list[Snapshot]:
    """Delete what retention does not keep; returns what was deleted. Blocking; raises ``DriverError``."""
    with lock(stack.home.snapshot_lock, purpose="works on the snapshots", wait_s=LOCK_S):
        keep_last = stack.manifest.rollback.keep_last
        expired = expire(stack.driver.snapshots(), keep_last=keep_last, golden=golden)
        for snapshot in expired:
            stack.driver.delete_snapshot(snapshot.vcd, tag=snapshot.tag)
    return expired


def _snapshot(stack: Stack, golden: str, tag: str) -> list[Snapshot]:
    with lock(stack.home.snapshot_lock, purpose="works on the snapshots", wait_s=LOCK_S):
        return stack.driver.snapshot(stack.vcds, tag=tag, golden=golden)


async def _undo(stack: Stack, golden: str) -> str:
    """Delete an image again, so that the one before comes into force; returns what came of it."""
    request = DeleteGoldenRequest(id=golden)
    try:
        await call(
            stack.operator(),
            lambda channel: GoldenServiceStub(channel).DeleteGolden(request, timeout=CALL_S),
        )
    except ManagerError as e:
        return f"golden image {golden} stays without one ({e})"
    return f"golden image {golden} is deleted again"


async def _edges(stack: Stack) -> set[str]:
    """The edges that there are now, as people read them."""
    request = GetGraphRequest(stack=stack.name)
    graph = await call(
        stack.operator(), lambda channel: StackServiceStub(channel).GetGraph(request, timeout=CALL_S)
    )
    return {f"{edge.source} → {edge.target}:{edge.service or edge.port or '*'}" for edge in graph.edges}
