"""Keeps children alive: adopts those that run, restarts those that die, leaves them running when it ends itself."""

import asyncio
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from idm.errors import DeployError
from idm.process import Process, find, log_tail, marked, read_record, spawn, trim_log, write_record

FIRST_DELAY_S = 0.2
LAST_DELAY_S = 2.0
# A child that ran this long has got over what made it fail before.
SETTLED_S = 10.0
READY_S = 20.0
# Deaths in a row, before it was ever ready, after which nobody should go on waiting for a child.
HOPELESS = 3

_log = structlog.get_logger()


@dataclass(frozen=True)
class Child:
    """A program to keep alive. A running one started for another ``identity`` is replaced, not adopted.

    With ``notifies`` it is ready once it says so (READY=1 by sd_notify), otherwise as soon as it runs.
    """

    name: str
    command: tuple[str, ...]
    identity: str = ""
    notifies: bool = False


class Supervisor:
    """The children of one run directory. Lives within a task group; when that is cancelled the children go on."""

    def __init__(self, run: Path, tasks: asyncio.TaskGroup) -> None:
        self._run = run
        self._tasks = tasks
        self._keepers: dict[str, tuple[_Keeper, asyncio.Task[None]]] = {}

    def child(self, name: str) -> Child | None:
        """The child that is kept under this name."""
        kept = self._keepers.get(name)
        return kept[0].child if kept else None

    def names(self) -> set[str]:
        """The names of all that are kept."""
        return set(self._keepers)

    def keep(self, child: Child) -> None:
        """Keep this child alive from now on; one of that name must have been ended before."""
        if child.name in self._keepers:
            raise ValueError(f"{child.name} is kept already")
        keeper = _Keeper(child, self._run)
        self._keepers[child.name] = keeper, self._tasks.create_task(keeper.run(), name=child.name)

    async def ready(self, names: Iterable[str], *, timeout_s: float) -> None:
        """Wait until all of these that are kept are ready.

        Raises :class:`DeployError` with the log's end of one that is not.
        """
        keepers = [self._keepers[name][0] for name in names if name in self._keepers]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for keeper in keepers:
                    await keeper.decided.wait()
        for keeper in keepers:
            if not keeper.is_ready and not keeper.ended:
                tail = log_tail(self._run, keeper.child.name) or "its log is empty"
                raise DeployError(
                    f"{keeper.child.name} is not ready: {tail} (see {self._run}/{keeper.child.name}.log)"
                )

    async def end(self, name: str, *, grace_s: float = 3.0) -> None:
        """Stop keeping this child, and end it; harmless when there is none."""
        kept = self._keepers.pop(name, None)
        if kept is not None:
            kept[0].ended = True
            kept[0].decided.set()
            kept[1].cancel()
            await asyncio.wait([kept[1]])
        await asyncio.to_thread(end_child, self._run, name, grace_s=grace_s)

    def release(self) -> None:
        """Keep none of them any longer; all go on running."""
        for _, task in self._keepers.values():
            task.cancel()
        self._keepers.clear()

    def trim_logs(self) -> None:
        """Keep all logs of the run directory within their bound; blocking."""
        for log in self._run.glob("*.log"):
            trim_log(log)


def end_child(run: Path, name: str, *, grace_s: float) -> None:
    """End the child of that name and everything that it started; blocking, harmless when there is none."""
    if found := find(run, name):
        with found[1] as process:
            process.end(grace_s=grace_s)
    for process in marked(run, name):
        with process:
            process.end(grace_s=0)
    for leftover in (run / f"{name}.pid", run / f"{name}.ready"):
        leftover.unlink(missing_ok=True)


class _Keeper:
    """One child's life, over and over."""

    def __init__(self, child: Child, run: Path) -> None:
        self.child = child
        self.is_ready = False
        self.ended = False
        # Set once the child is ready, is kept no longer, or has failed so often that waiting is in vain.
        self.decided = asyncio.Event()
        self._run = run
        self._failures = 0

    async def run(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            began = time.monotonic()
            try:
                await self._live()
            except OSError as e:
                self._fail()
                _log.error("child cannot be started", child=self.child.name, problem=e.strerror or str(e))
            delay_s = FIRST_DELAY_S if time.monotonic() - began > SETTLED_S else delay_s
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LAST_DELAY_S)

    async def _live(self) -> None:
        """Adopt or start the child, and stay until it has ended."""
        if (process := self._adopt()) is not None:
            with process:
                self._succeed()
                end = await process.wait()
        else:
            end = await self._start()
        self.is_ready = False
        _log.warning(
            "child ended, starting it again",
            child=self.child.name,
            end=end,
            log=log_tail(self._run, self.child.name),
        )

    def _adopt(self) -> Process | None:
        found = find(self._run, self.child.name)
        if found is None:
            return None
        record, process = found
        if record.identity == self.child.identity and (record.ready or not self.child.notifies):
            _log.info("child adopted", child=self.child.name, pid=record.pid)
            return process
        process.close()
        return None

    async def _start(self) -> str:
        await asyncio.to_thread(end_child, self._run, self.child.name, grace_s=1.0)
        if not self.child.notifies:
            with spawn(
                self._run, self.child.name, self.child.command, identity=self.child.identity
            ) as process:
                self._succeed()
                return await process.wait()
        path = self._run / f"{self.child.name}.ready"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
            notify.bind(str(path))
            with spawn(
                self._run, self.child.name, self.child.command, identity=self.child.identity, notify=path
            ) as process:
                return await self._introduce(process, notify)

    async def _introduce(self, process: Process, notify: socket.socket) -> str:
        """Wait for the child to say that it is ready, then for its end; kill it when it never says so."""
        ended = asyncio.create_task(process.wait())
        said = asyncio.create_task(_hear_ready(notify))
        try:
            await asyncio.wait((ended, said), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
            if said.done() and not ended.done():
                self._note_ready()
                self._succeed()
                return await ended
            if not ended.done():
                await asyncio.to_thread(process.end, grace_s=0)
            self._fail()
            return await ended
        finally:
            ended.cancel()
            said.cancel()
            await asyncio.wait((ended, said))

    def _note_ready(self) -> None:
        if (record := read_record(self._run, self.child.name)) is not None:
            write_record(self._run, self.child.name, msgspec.structs.replace(record, ready=True))

    def _succeed(self) -> None:
        self._failures = 0
        self.is_ready = True
        self.decided.set()

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= HOPELESS:
            self.decided.set()


async def _hear_ready(notify: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while b"READY=1" not in (await loop.sock_recv(notify, 4096)).split(b"\n"):
        continue
