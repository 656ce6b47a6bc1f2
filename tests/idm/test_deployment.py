"""What runs while a stack is deployed, on a real manager."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dm.client import ManagerError
from dm.v1.stack_pb2 import POWER_RUNNING, POWER_STOPPED
from dm.v1.stack_service_pb2 import ExplainRequest, GetGraphRequest, ListStacksRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.deployment import RELOAD, deploying
from idm.home import locate
from idm.journal import Journal
from idm.manager import call, status
from idm.manifest import Manifest, Network, Vcd
from idm.manifest import Stack as StackTable
from idm.process import marked, read_record
from idm.stack import Stack
from tests.idm.memory import MemoryDriver


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of one VCD that runs; its manager is ended after the test."""
    home = locate("shop", ["db"], state=tmp_path / "s", run=tmp_path / "r")
    home.create()
    manifest = Manifest(
        stack=StackTable(name="shop"),
        network=Network(subnet="198.18.1.0/24"),
        vcd={"db": Vcd(name="db", image="i")},
    )
    driver = MemoryDriver()
    driver.start("db")
    yield Stack(manifest, "f" * 64, home, driver)
    driver.close()
    for process in marked(home.run):
        with process:
            process.end(grace_s=2.0)


async def _until_power(stack: Stack, power: int) -> None:
    request = GetGraphRequest(stack="shop")
    known = None
    async with asyncio.timeout(15):
        while known != power:
            try:
                graph = await call(
                    stack.operator(), lambda channel: StackServiceStub(channel).GetGraph(request, timeout=1)
                )
                known = graph.nodes[0].power
            except ManagerError:
                await asyncio.sleep(0.05)


def test_killed_manager_is_back_with_everything_it_has_to_know(stack: Stack) -> None:
    """After kill -9 the manager is started again and told the same launch and the instances' present power."""

    async def story() -> None:
        with Journal(stack.home.journal) as journal:
            async with deploying(stack, journal, on_rollback=lambda _: None) as deployment:
                await deployment.start_manager()
                await deployment.apply()
                await deployment.start_agents()
                deployment.attend()
                await _until_power(stack, POWER_RUNNING)
                launch = journal.launch()
                record = read_record(stack.home.run, "dm")
                assert record is not None
                os.kill(record.pid, signal.SIGKILL)
                stack.driver.stop("db")
                deployment.observer.look()
                await _until_power(stack, POWER_STOPPED)
                assert launch is not None
                assert (await status(stack.operator(), "shop")).launch_age_ms >= launch.age_ms

    asyncio.run(story())


def test_next_deployer_adopts_the_manager(stack: Stack) -> None:
    """The manager outlives its deployer, and the next one goes on with the same process and the same launch."""

    async def deploy() -> tuple[int, str]:
        with Journal(stack.home.journal) as journal:
            async with deploying(stack, journal, on_rollback=lambda _: None) as deployment:
                await deployment.start_manager()
                await deployment.apply()
                record, launch = read_record(stack.home.run, "dm"), journal.launch()
                assert record is not None
                assert launch is not None
                return record.pid, launch.id

    assert asyncio.run(deploy()) == asyncio.run(deploy())


def test_a_manager_of_its_own_unit_is_used_and_left_alone(stack: Stack) -> None:
    """A manager that somebody else started at the stack's socket gets no rival, and is not ended with the deployer."""
    home = stack.home
    command = [
        sys.executable,
        "-m",
        "dm",
        "serve",
        "--listen",
        home.target,
        "--state",
        str(home.manager_store),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as unit:

        async def story() -> None:
            await _until_answers(stack)
            with Journal(home.journal) as journal:
                async with deploying(stack, journal, on_rollback=lambda _: None) as deployment:
                    await deployment.start_manager()
                    await deployment.apply()
            assert read_record(home.run, "dm") is None
            assert (await status(stack.operator(), "shop")).stack == "shop"

        try:
            asyncio.run(story())
            assert unit.poll() is None
        finally:
            unit.terminate()


async def _until_answers(stack: Stack) -> None:
    async with asyncio.timeout(15):
        while True:
            with suppress(ManagerError):
                await call(
                    stack.operator(),
                    lambda channel: StackServiceStub(channel).ListStacks(ListStacksRequest(), timeout=1),
                )
                return
            await asyncio.sleep(0.05)


def test_settings_are_taken_into_use_without_a_new_launch(stack: Stack, tmp_path: Path) -> None:
    """A signal has the manager judge by the manifest's new settings; one that is wrong changes nothing."""
    written = tmp_path / "stack.toml"
    stack = replace(stack, source=written)
    text = '[stack]\nname = "shop"\n[network]\nsubnet = "198.18.1.0/24"\n[vcd.db]\nimage = "other"\n'
    text += "[judge]\nconfirm_s = {}"

    async def confirm_s() -> str:
        reply = await call(
            stack.operator(),
            lambda channel: StackServiceStub(channel).Explain(ExplainRequest(stack="shop"), timeout=1),
        )
        return next(knob.value for knob in reply.knobs if knob.name == "judge.confirm_s")

    async def story() -> None:
        with Journal(stack.home.journal) as journal:
            async with deploying(stack, journal, on_rollback=lambda _: None) as deployment:
                await deployment.start_manager()
                await deployment.apply()
                await deployment.start_agents()
                deployment.attend()
                launch = journal.launch()
                assert launch is not None
                written.write_text(text.format('"wrong"'))
                await deployment.reload()
                assert await confirm_s() == "3"
                written.write_text(text.format(7))
                os.kill(os.getpid(), RELOAD)
                async with asyncio.timeout(10):
                    value = ""
                    while value != "7":
                        value = await confirm_s()
                # What else has changed there waits for the next launch.
                assert deployment.stack.manifest.vcd["db"].image == "i"
                now = journal.launch()
                assert now is not None
                assert now.id == launch.id

    asyncio.run(story())
