"""Metrics of an agent, as a program reads them."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError

import pytest

from dm.exposition import exposed, listening
from dma.flow import Loss
from dma.metrics import AgentCollector
from dma.naming.names import Names
from dma.observation import Observation
from dma.report import Identity, Report
from dma.stream import Reporter
from dma.urgency import Urgency
from tests.dma.capture.lab import Cable
from tests.dma.recorder import Recorder, served
from tests.dma.scripted import ScriptedCapture, flow
from tests.scrape import ANY_PORT, scrape, url

DMA = Path(sys.executable).with_name("dma")
GOAL_RSS_BYTES = 60 * 1024 * 1024


def test_tells_what_the_agent_knows(tmp_path: Path) -> None:
    """Losses by reason, edges, what is open and waiting, hooks, and whether the manager is there."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        capture.see(flow(port=1, attempts=3, open=2), flow(port=2, attempts=1, pending=1))
        identity = Identity(stack="shop", vcd="web", version="1", interval_s=0.5)
        with capture, Urgency(capture) as urgency, listening(ANY_PORT) as listener:
            report = Report(identity, Observation(capture, Names([]), limit=2))
            capture.lost[Loss.MAP_FULL] = 7
            async with served(recorder, tmp_path / "dm.sock") as target:
                reporter = Reporter(report, urgency, target=target)
                reporting = asyncio.create_task(reporter.run())
                await recorder.until(recorder.complete)
                async with exposed(listener, AgentCollector(report, reporter)):
                    found = await asyncio.to_thread(scrape, url(listener))
                reporting.cancel()
        assert found["stackmend_agent_losses_total", "map full"] == 7
        assert found["stackmend_agent_losses_total", "missed probe"] == 0
        assert found["stackmend_agent_losses_total", "table full"] == 0
        assert found["stackmend_agent_edges",] == 2
        assert found["stackmend_agent_open_connections",] == 2
        assert found["stackmend_agent_pending_attempts",] == 1
        assert found["stackmend_agent_probe_attached", "connect4"] == 1
        assert found["stackmend_agent_probe_attached", "connect6"] == 0
        assert found["stackmend_agent_connected",] == 1
        assert {"shop", "web", "scripted"} <= next(
            set(key) for key in found if key[0] == "stackmend_agent_info"
        )

    asyncio.run(scene())


@pytest.mark.kernel
def test_are_served_where_the_agent_was_started(network: Cable, tmp_path: Path) -> None:
    """An agent of another namespace is read from its host, and stays within its memory although it serves."""
    with listening(ANY_PORT) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    where = ("--netns", str(network.client_netns), "--metrics", address)
    command = [str(DMA), "run", "--stack", "shop", "--vcd", "web", "--dm", f"unix:{tmp_path}/dm.sock", *where]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert any("metrics" in line for line in process.stderr)
            found = scrape(f"http://{address}/metrics")
        finally:
            process.kill()
    assert found["stackmend_agent_connected",] == 0
    assert found["process_resident_memory_bytes",] < GOAL_RSS_BYTES


def test_strangers_are_refused_or_left(tmp_path: Path) -> None:
    """What is no request for metrics is not found, and who says nothing keeps nobody else from reading them."""

    async def scene() -> None:
        with ScriptedCapture() as capture, Urgency(capture) as urgency, listening(ANY_PORT) as listener:
            identity = Identity(stack="shop", vcd="web", version="1", interval_s=0.5)
            report = Report(identity, Observation(capture, Names([])))
            reporter = Reporter(report, urgency, target=f"unix:{tmp_path}/dm.sock")
            async with exposed(listener, AgentCollector(report, reporter)):
                with pytest.raises(HTTPError, match="404"):
                    await asyncio.to_thread(scrape, url(listener).replace("metrics", "secrets"))
                with socket.create_connection(listener.getsockname()):
                    found = await asyncio.to_thread(scrape, url(listener))
        assert found["stackmend_agent_edges",] == 0

    asyncio.run(scene())


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "198.18.77.1:9464"])
def test_an_address_that_cannot_be_served_is_refused(address: str, tmp_path: Path) -> None:
    """The one line says what to give instead, before anything is attached."""
    command = [str(DMA), "run", "--stack", "s", "--vcd", "v", "--dm", f"unix:{tmp_path}/dm.sock"]
    done = subprocess.run([*command, "--metrics", address], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: metrics cannot be served at {address} (")
    assert done.stderr.endswith("give a free ADDRESS:PORT such as 127.0.0.1:9464\n")
