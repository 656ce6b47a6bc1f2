"""Detached child processes: each runs in a session of its own, outlives its parent and can be found again.

A process is known by its pid together with its start time, so that a pid used anew is never mistaken for it. A pid file
says so; and since the parent may be killed before it writes one, every child also carries its name in its environment.
"""

import asyncio
import os
import select
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

MARK = "IDM_CHILD"
MAX_LOG_BYTES = 4 * 1024 * 1024


class Record(msgspec.Struct, frozen=True):
    """A pid file. ``identity`` is what the child was started for; ``ready`` once it has said that it is."""

    pid: int
    start: int
    command: tuple[str, ...]
    identity: str = ""
    ready: bool = False


class Stat(NamedTuple):
    """What the kernel says of a process: its state letter, and its start time in clock ticks after boot."""

    state: str
    start: int


class Process:
    """A live process, held by a pidfd."""

    def __init__(self, pid: int, start: int, descriptor: int) -> None:
        self.pid = pid
        self.start = start
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; the process itself goes on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; harmless when the process has ended."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return

    def ended(self, *, wait_s: float = 0.0) -> bool:
        """Whether it ended within the time. Reaps it when it is this process's own child."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            return False
        self._reap()
        return True

    async def wait(self) -> str:
        """Wait for its end, which is told in a few words where it can be known."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(self._descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._descriptor)
        return self._reap()

    def end(self, *, grace_s: float) -> None:
        """Ask it to end, and kill it after the grace. Blocks at most the grace and two seconds."""
        if grace_s > 0:
            self.signal(signal.SIGTERM)
            if self.ended(wait_s=grace_s):
                return
        self.signal(signal.SIGKILL)
        self.ended(wait_s=2.0)

    def _reap(self) -> str:
        try:
            result = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return "ended"
        if result is None:
            return "ended"
        if result.si_code == os.CLD_EXITED:
            return f"ended with status {result.si_status}"
        return f"was ended by signal {result.si_status}"


def identify(pid: int, *, start: int | None = None) -> Process | None:
    """The live process of that pid, and of that start time when one is given."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    stat = read_stat(pid)
    if stat is None or stat.state in "ZX" or (start is not None and stat.start != start):
        os.close(descriptor)
        return None
    return Process(pid, stat.start, descriptor)


def read_stat(pid: int) -> Stat | None:
    """State and start time (proc_pid_stat(5), fields 3 and 22), or none when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Stat(state=fields[0], start=int(fields[19]))


def spawn(
    run: Path, name: str, command: Sequence[str], *, identity: str = "", notify: Path | None = None
) -> Process:
    """Start a detached child whose output goes to its log file, and write its pid file.

    Raises OSError when the program cannot be started.
    """
    log = run / f"{name}.log"
    trim_log(log)
    environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    environment[MARK] = str(run / name)
    if notify is not None:
        environment["NOTIFY_SOCKET"] = str(notify)
    pid = os.posix_spawn(
        command[0],
        list(command),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )
    process = Process(pid, stat.start if (stat := read_stat(pid)) else 0, os.pidfd_open(pid))
    write_record(run, name, Record(pid, process.start, tuple(command), identity))
    return process


def write_record(run: Path, name: str, record: Record) -> None:
    """Write a pid file, whole or not at all: the pid on the first line, for people and scripts, then the record."""
    fresh = run / f"{name}.pid.new"
    fresh.write_bytes(f"{record.pid}\n".encode() + msgspec.json.encode(record) + b"\n")
    fresh.replace(run / f"{name}.pid")


def read_record(run: Path, name: str) -> Record | None:
    """The pid file of a child, if there is a readable one."""
    try:
        return msgspec.json.decode((run / f"{name}.pid").read_bytes().partition(b"\n")[2], type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def find(run: Path, name: str) -> tuple[Record, Process] | None:
    """The live child of that name by its pid file."""
    record = read_record(run, name)
    if record is None or (process := identify(record.pid, start=record.start)) is None:
        return None
    return record, process


def marked(run: Path, name: str = "") -> list[Process]:
    """All live processes that carry the mark of a child (of any, without a name) of this run directory."""
    prefix = f"{MARK}={run / name}".encode() + (b"" if name else b"/")
    found = []
    for entry in Path("/proc").iterdir():
        if (
            entry.name.isdigit()
            and int(entry.name) != os.getpid()
            and _has_mark(entry, prefix, whole=bool(name))
        ):
            process = identify(int(entry.name))
            found += [process] if process else []
    return found


def _has_mark(entry: Path, prefix: bytes, *, whole: bool) -> bool:
    try:
        variables = (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(variable == prefix if whole else variable.startswith(prefix) for variable in variables)


def trim_log(log: Path) -> None:
    """Keep a log within its bound: what is above goes to one older file, also while a child writes (it appends)."""
    try:
        if log.stat().st_size > MAX_LOG_BYTES:
            log.with_suffix(".log.1").write_bytes(log.read_bytes()[-MAX_LOG_BYTES:])
            os.truncate(log, 0)
    except FileNotFoundError:
        return


def log_tail(run: Path, name: str, *, lines: int = 3) -> str:
    """The last lines of a child's log that are not all the same, joined to one."""
    try:
        with (run / f"{name}.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    distinct = list(dict.fromkeys(line.strip() for line in reversed(text.splitlines()) if line.strip()))
    return " | ".join(reversed(distinct[:lines]))
