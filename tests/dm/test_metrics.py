"""Metrics of a manager, as a program reads them."""

import asyncio
from pathlib import Path

from dm.exposition import exposed, listening
from dm.metrics import ManagerCollector
from dm.v1 import agent_pb2, stack_pb2
from dm.v1.agent_service_pb2 import ReportRequest
from dm.v1.golden_service_pb2 import CaptureGoldenRequest
from tests.dm.peer import DEADLINE_S, good, manager, refused
from tests.scrape import ANY_PORT, scrape, url


def test_tells_the_judgement_and_how_far_it_sees(tmp_path: Path) -> None:
    """The verdict and the deviation of each stack, who is heard, and what agents lost, by reason."""

    async def scene() -> None:
        async with manager(tmp_path) as peer:
            await peer.apply(mode=stack_pb2.ROLLBACK_MODE_OBSERVE)
            async with peer.agent("web") as web, peer.agent("db") as db:
                await db.report()
                await web.report(good())
                await peer.golden.CaptureGolden(CaptureGoldenRequest(stack="pair"), timeout=DEADLINE_S)
                await peer.break_db(web)
                lost = agent_pb2.Loss(reason=agent_pb2.LOSS_REASON_RING_FULL, count=4)
                await web.call.write(ReportRequest(coverage=agent_pb2.Coverage(losses=[lost])))
                await web.report(refused(4))
                with listening(ANY_PORT) as listener:
                    async with exposed(listener, ManagerCollector(peer.manager)):
                        found = await asyncio.to_thread(scrape, url(listener))
        assert found["stackmend_verdict", "pair", "failed"] == 1
        assert found["stackmend_verdict", "pair", "ok"] == 0
        assert found["stackmend_deviation_ratio", "pair"] == 1
        assert found["stackmend_vcd_connected", "pair", "web"] == 1
        assert found["stackmend_vcd_losses_total", "ring full", "pair", "web"] == 4

    asyncio.run(scene())
