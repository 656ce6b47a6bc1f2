"""What the agent logs, and in which form."""

import json
from ipaddress import IPv4Address

import pytest

from dma.logs import Log, as_json, as_pairs


def test_a_collector_reads_objects(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is one object with the time, the level, the event and its fields, whatever they are."""
    log = Log()
    log.render = as_json
    log.info("connected", target=IPv4Address("198.18.0.1"), generation=3)
    told = json.loads(capsys.readouterr().err)
    assert told.pop("timestamp").endswith("Z")
    assert told == {"level": "info", "event": "connected", "target": "198.18.0.1", "generation": 3}


def test_a_person_reads_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not one plain word is quoted, so that each line stays one line."""
    log = Log()
    log.render = as_pairs
    log.warning("manager lost", reason='it said "no"\nand went', count=0, place="")
    line = capsys.readouterr().err
    assert line.endswith(
        'level=warning event="manager lost" reason="it said \\"no\\"\\nand went" count=0 place=""\n'
    )


def test_a_defect_is_told_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback is a field like others."""
    log = Log()
    log.render = as_json
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("registry misunderstood", registry="consul")
    told = json.loads(capsys.readouterr().err)
    assert told["level"] == "error"
    assert told["exception"].endswith("ValueError: odd\n")


def test_silence_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a form nothing is written."""
    log = Log()
    log.render = None
    log.info("attached")
    assert capsys.readouterr().err == ""
