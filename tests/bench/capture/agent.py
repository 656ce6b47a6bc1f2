"""What a whole agent takes: a process with its stream to a manager, at work and at rest."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from dm.client import connect
from dm.v1 import stack_pb2
from dm.v1.stack_service_pb2 import ApplyStackRequest, GetGraphRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from tests.bench.capture.load import Generator, Lab
from tests.bench.capture.rivals import with_tracefs
from tests.dma.recorder import Recorder, served

BIN = Path(sys.executable).parent
COMPILED = Path("build/bench/bytecode")
"""Where the agent's modules are found compiled, as those of an installed one are."""
RATE = 10_000
BATCH = 50
PERIOD_US = 1_000_000 * BATCH // RATE
STACK, VCD = "bench", "one"
SETTLE_S = 10.0
LOOK_S = 0.05
DEADLINE_S = 10.0
STARTS = 5
SYSTEM_CALLS = "tracepoint:raw_syscalls:sys_enter /pid == {}/ {{ @ = count(); }} interval:s:{} {{ exit(); }}"


class Taken(NamedTuple):
    """What an agent took in a window of time."""

    cpu_share: float
    """Of one core."""
    wakeups_per_s: float
    calls_per_s: float
    """Made meanwhile by the load."""


class Usage(NamedTuple):
    """An agent at rest and at ``RATE`` connections a second to as many destinations as the load has."""

    idle: Taken
    busy: Taken
    rss_mb: float
    system_calls_per_connection: float


@contextmanager
def running(lab: Lab, *, plan: str, target: str) -> Iterator[int]:
    """An agent of the load's namespace; gives its process number."""
    place = ("--netns", str(lab.inside.path), "--plan", plan)
    command = [str(BIN / "dma"), "run", "--dm", target, "--stack", STACK, "--vcd", VCD, *place]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=_installed()) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def _installed() -> dict[str, str]:
    """The environment of a process that keeps what it compiles."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(COMPILED.absolute())}


@contextmanager
def manager() -> Iterator[str]:
    """A manager that knows the agent's stack, and the address where it can be reached."""
    with TemporaryDirectory() as scratch:
        target = f"unix:{scratch}/dm.sock"
        command = [str(BIN / "dm"), "serve", "--listen", target, "--state", f"{scratch}/dm.db"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                asyncio.run(_declare(target))
                yield target
            finally:
                process.terminate()


async def _declare(target: str) -> None:
    stack = stack_pb2.StackSpec(name=STACK, launch="1", vcds=[stack_pb2.VcdSpec(name=VCD)])
    async with connect(target) as channel:
        request = ApplyStackRequest(stack=stack)
        await StackServiceStub(channel).ApplyStack(request, timeout=DEADLINE_S, wait_for_ready=True)


async def _until_heard(target: str) -> None:
    """Wait until the manager has welcomed the agent."""
    async with asyncio.timeout(DEADLINE_S), connect(target) as channel:
        stub = StackServiceStub(channel)
        while True:
            graph = await stub.GetGraph(GetGraphRequest(stack=STACK), timeout=DEADLINE_S)
            if any(node.agent_connected for node in graph.nodes):
                return
            await asyncio.sleep(LOOK_S)


def usage(lab: Lab, *, plan: str, seconds: int) -> Usage:
    """Watch one agent for so long at rest, and for so long at work."""
    with manager() as target, running(lab, plan=plan, target=target) as pid, lab.generator() as generator:
        asyncio.run(_until_heard(target))
        # Caches are filled, of which nobody outside can tell the end.
        time.sleep(SETTLE_S)
        idle = _window(pid, seconds)
        busy_s = SETTLE_S + seconds + 1
        generator.start("tcp", milliseconds=round(busy_s * 1000), batch=BATCH, period_us=PERIOD_US)
        # With work, names are looked up first.
        time.sleep(SETTLE_S)
        busy = _window(pid, seconds)
        busy = busy._replace(calls_per_s=generator.finish().calls / busy_s)
        per_connection = _system_calls_per_connection(generator, pid, seconds)
        return Usage(idle, busy, _rss_mb(pid), per_connection)


def _system_calls_per_connection(generator: Generator, pid: int, seconds: int) -> float:
    """What more connections to the same destinations add: each destination is reported once an interval at any rate."""
    counted = []
    # What counts them takes its time to begin.
    load_s = SETTLE_S + seconds
    for batch in (BATCH // 4, BATCH):
        generator.start("tcp", milliseconds=round(load_s * 1000), batch=batch, period_us=PERIOD_US)
        calls = _system_calls(pid, seconds)
        counted.append((calls, generator.finish().calls * seconds / load_s))
    (few_calls, few), (many_calls, many) = counted
    return (many_calls - few_calls) / (many - few)


def _window(pid: int, seconds: float) -> Taken:
    before_ns, before = _cpu_ns(pid), _wakeups(pid)
    began_s = time.monotonic()
    # The window itself: what is measured is what happens in it.
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    return Taken((_cpu_ns(pid) - before_ns) / took_s / 1e9, (_wakeups(pid) - before) / took_s, 0)


def _tasks(pid: int) -> list[Path]:
    return list(Path("/proc", str(pid), "task").iterdir())


def _cpu_ns(pid: int) -> int:
    return sum(int((task / "schedstat").read_text().split()[0]) for task in _tasks(pid))


def _wakeups(pid: int) -> int:
    return sum(_status(task / "status", "voluntary_ctxt_switches") for task in _tasks(pid))


def _rss_mb(pid: int) -> float:
    return _status(Path("/proc", str(pid), "status"), "VmRSS") / 1024


def _status(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name}:"))


def _system_calls(pid: int, seconds: int) -> int:
    """How many a process makes in so many seconds."""
    done = subprocess.run(
        with_tracefs("-f", "json", "-e", SYSTEM_CALLS.format(pid, seconds)),
        capture_output=True,
        text=True,
        timeout=seconds + DEADLINE_S * 3,
        check=True,
    )
    records = [json.loads(line) for line in filter(None, done.stdout.splitlines())]
    return next(int(record["data"]["@"]) for record in records if record["type"] == "map")


async def first_observation_s(lab: Lab, *, plan: str) -> float:
    """From exec until a manager has been told of a dependency that is in use all the time."""
    with TemporaryDirectory() as scratch, lab.generator() as generator:
        generator.start("tcp", milliseconds=int(DEADLINE_S * 1000), batch=1, period_us=10_000)
        recorder = Recorder()
        async with served(recorder, Path(scratch, "dm.sock")) as target:
            began_s = time.monotonic()
            with running(lab, plan=plan, target=target):
                await recorder.until(recorder.known)
                return time.monotonic() - began_s


def starts_s(lab: Lab, *, plan: str) -> list[float]:
    """How long each of several agents took to its first observation, after one that compiled its modules."""
    _first, *later = [asyncio.run(first_observation_s(lab, plan=plan)) for _ in range(1 + STARTS)]
    return later
