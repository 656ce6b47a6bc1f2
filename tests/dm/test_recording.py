"""What is said to a manager, kept in a file."""

import asyncio
import json
from pathlib import Path

import pytest

from dm.client import connect
from dm.service import recording
from dm.service.recording import RecordingError
from dm.service.server import serving
from dm.store.sqlite import Store
from dm.v1.stack_service_pb2 import GetStatusRequest
from tests.dm.peer import DEADLINE_S, Peer, good


async def talk(folder: Path, file: Path) -> None:
    """A stack is declared, an agent reports and goes, and somebody asks; all of it recorded."""
    address = f"unix:{folder}/dm.sock"
    with Store(folder / "dm.sqlite") as store, recording.recording(file) as recorder:
        async with serving(store, address, recorders=[recorder]) as served, connect(address) as channel:
            peer = Peer(channel, served)
            await peer.apply()
            async with peer.agent("web") as web:
                await web.report(good())
            await peer.stacks.GetStatus(GetStatusRequest(stack="pair"), timeout=DEADLINE_S)


def test_keeps_what_changes_a_stack_in_the_order_of_arrival(tmp_path: Path) -> None:
    """Declarations, reports and the ends of streams are written with their times; questions are not."""
    file = tmp_path / "recording.jsonl"
    asyncio.run(talk(tmp_path, file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["method"].rpartition("/")[2] for line in lines] == ["ApplyStack", *["Report"] * 3]
    assert [next(iter(line.get("request", {"end": 1}))) for line in lines] == [
        "stack",
        "hello",
        "edges",
        "end",
    ]
    assert {line["call"] for line in lines[1:]} == {2}
    assert [line["at_s"] for line in lines] == sorted(line["at_s"] for line in lines)
    assert file.stat().st_mode & 0o777 == 0o600


def test_grows_no_further_than_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes once the file is full is served, and not kept."""
    monkeypatch.setattr(recording, "MAX_BYTES", 600)
    file = tmp_path / "recording.jsonl"
    asyncio.run(talk(tmp_path, file))
    assert 0 < file.stat().st_size <= 600


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    """The message names the file and the option."""
    with (
        pytest.raises(RecordingError, match="choose another file for --record"),
        recording.recording(tmp_path),
    ):
        pass
