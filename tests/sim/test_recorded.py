"""Recordings of real managers' wires, judged again in virtual time as they were judged then."""

import asyncio
import gzip
from pathlib import Path

import pytest

from dm.client import connect
from dm.service.recording import recording
from dm.service.server import serving
from dm.store.sqlite import Store
from dm.v1.golden_service_pb2 import CaptureGoldenRequest
from dm.verdict import Verdict
from tests.dm.peer import DEADLINE_S, Peer, good, refused
from tests.sim.recorded import KEPT, history

CULPRITS = {"crash": "cache", "partition": "api", "misconfig": "api", "corrupt": "db"}
"""Who was broken on purpose in the recordings of ``make demo``."""
HARMLESS = ("none", "replica")


async def refuse(folder: Path, file: Path) -> None:
    """A stack of two is learned, and then its server refuses its client; all of it recorded."""
    address = f"unix:{folder}/dm.sock"
    with Store(folder / "dm.sqlite") as store, recording(file) as recorder:
        async with serving(store, address, recorders=[recorder]) as served, connect(address) as channel:
            judging = asyncio.create_task(served.run())
            peer = Peer(channel, served)
            await peer.apply()
            async with peer.agent("web") as web, peer.agent("db") as db:
                await db.report()
                await web.report(good())
                await peer.golden.CaptureGolden(CaptureGoldenRequest(stack="pair"), timeout=DEADLINE_S)
                await peer.break_db(web)
                await web.report(refused(5))
            judging.cancel()


def test_a_recording_is_judged_as_its_manager_judged(tmp_path: Path) -> None:
    """What a real manager recorded leads to its verdict and its culprit again, and takes no time."""
    plain, packed = tmp_path / "recording.jsonl", tmp_path / "recording.jsonl.gz"
    asyncio.run(refuse(tmp_path, plain))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    judged = history(packed)
    failed = [judgement for judgement in judged if judgement.verdict is Verdict.FAILED]
    assert failed
    assert {suspect.name for one in failed for suspect in one.finding.culprits} == {"db"}


def test_every_recording_that_is_kept_is_played() -> None:
    """A file that no test judges would prove nothing."""
    assert {path.name for path in KEPT.iterdir()} == {
        f"shop-{name}.jsonl.gz" for name in (*CULPRITS, *HARMLESS)
    }


@pytest.mark.parametrize(("fault", "culprit"), CULPRITS.items())
def test_who_was_broken_in_the_shop_is_blamed_and_nobody_else(fault: str, culprit: str) -> None:
    """From the first decision to the last it is the one that was broken, and once taken back all is well."""
    judged = history(KEPT / f"shop-{fault}.jsonl.gz")
    failed = [judgement for judgement in judged if judgement.verdict is Verdict.FAILED]
    assert failed
    assert {suspect.name for one in failed for suspect in one.finding.culprits} == {culprit}
    assert judged[-1].verdict is Verdict.OK


@pytest.mark.parametrize("name", HARMLESS)
def test_nobody_is_blamed_in_the_shop_when_nothing_was_broken(name: str) -> None:
    """A launch, a snapshot and some quiet time, or calls that go over to a replica, end well and never fail."""
    judged = history(KEPT / f"shop-{name}.jsonl.gz")
    assert Verdict.FAILED not in {judgement.verdict for judgement in judged}
    assert judged[-1].verdict is Verdict.OK
