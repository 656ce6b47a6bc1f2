"""The deployer's stream to the manager: tells what the instances do, takes commands, and comes back after any break."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress

import grpc
import grpc.aio
import structlog

from dm.client import connect, explain
from dm.v1.rollback_service_pb2 import (
    Attach,
    AttendRequest,
    AttendResponse,
    Command,
    CommandResult,
    InstanceReport,
    Rollback,
    StillThere,
)
from dm.v1.rollback_service_pb2_grpc import RollbackServiceStub
from dm.v1.stack_pb2 import StackSpec
from dm.v1.stack_service_pb2 import ApplyStackRequest, ApplyStackResponse
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.manager import Access

FIRST_DELAY_S = 0.2
LAST_DELAY_S = 2.0
# A stream that held so long was a good one.
SETTLED_S = 5.0
APPLY_S = 5.0
STILL_THERE_S = 1.0
# The manager has one command under way at a time; more than this waiting means that it has lost its mind.
MAX_COMMANDS = 16

_log = structlog.get_logger()


class Attendant:
    """Attends to one stack. Everything that is said on a stream is said anew on the next one.

    A command that is being carried out when the stream breaks goes on; the manager asks again, and the journal answers.
    """

    def __init__(
        self,
        access: Access,
        *,
        declare: Callable[[], StackSpec],
        reports: Callable[[], Iterable[InstanceReport]],
        carry_out: Callable[[Command], Awaitable[CommandResult]],
        on_applied: Callable[[ApplyStackResponse], None],
        on_rollback: Callable[[Rollback], None],
    ) -> None:
        self._access = access
        self._declare = declare
        self._reports = reports
        self._carry_out = carry_out
        self._on_applied = on_applied
        self._on_rollback = on_rollback
        self._session = secrets.token_hex(8)
        self._commands: asyncio.Queue[Command] = asyncio.Queue(MAX_COMMANDS)
        self._outbox = _Outbox()
        self._working = False
        self._idle = asyncio.Condition()
        self._problem = ""
        self.attached = asyncio.Event()

    def tell(self, report: InstanceReport) -> None:
        """Say that an instance has changed."""
        self._outbox.put_report(report)

    async def idle(self) -> None:
        """Wait until no command is left to carry out."""
        async with self._idle:
            await self._idle.wait_for(lambda: not self._working and self._commands.empty())

    async def run(self) -> None:
        """Attend until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work())
            tasks.create_task(self._stay_connected())

    async def _work(self) -> None:
        while True:
            command = await self._commands.get()
            self._working = True
            result = await self._carry_out(command)
            # Only now: the stream may be another one than when the command came.
            self._outbox.put_result(result)
            self._working = False
            async with self._idle:
                self._idle.notify_all()

    async def _stay_connected(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            began = time.monotonic()
            try:
                await self._connection()
            except grpc.aio.AioRpcError as e:
                self._complain(str(explain(e, target=self._access.target)))
            finally:
                self.attached.clear()
            delay_s = (
                FIRST_DELAY_S if time.monotonic() - began > SETTLED_S else min(2 * delay_s, LAST_DELAY_S)
            )
            await asyncio.sleep(delay_s)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("the manager cannot be attended, trying on", problem=problem)
        self._problem = problem

    async def _connection(self) -> None:
        async with connect(self._access.target, tls=self._access.tls) as channel:
            spec = self._declare()
            self._on_applied(
                await StackServiceStub(channel).ApplyStack(ApplyStackRequest(stack=spec), timeout=APPLY_S)
            )
            self._outbox = outbox = _Outbox()
            for report in self._reports():
                outbox.put_report(report)
            attach = AttendRequest(attach=Attach(stack=spec.name, session=self._session))
            call = RollbackServiceStub(channel).Attend(outbox.drain(attach))
            self.attached.set()
            self._problem = ""
            async for response in call:
                self._hear(response)

    def _hear(self, response: AttendResponse) -> None:
        match response.WhichOneof("item"):
            case "command":
                try:
                    self._commands.put_nowait(response.command)
                except asyncio.QueueFull:
                    _log.error("command dropped, too many wait", token=response.command.token)
            case "rollback":
                self._on_rollback(response.rollback)


class _Outbox:
    """What waits to be said on one stream: the latest report of each VCD, and results."""

    def __init__(self) -> None:
        self._reports: dict[str, InstanceReport] = {}
        self._results: deque[CommandResult] = deque(maxlen=MAX_COMMANDS)
        self._filled = asyncio.Event()

    def put_report(self, report: InstanceReport) -> None:
        self._reports[report.vcd] = report
        self._filled.set()

    def put_result(self, result: CommandResult) -> None:
        self._results.append(result)
        self._filled.set()

    async def drain(self, attach: AttendRequest) -> AsyncIterator[AttendRequest]:
        yield attach
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(STILL_THERE_S):
                    await self._filled.wait()
            self._filled.clear()
            if not self._reports and not self._results:
                yield AttendRequest(still_there=StillThere())
            while self._reports:
                yield AttendRequest(instance=self._reports.pop(next(iter(self._reports))))
            while self._results:
                yield AttendRequest(result=self._results.popleft())
