"""Ctrl-C ends a command, whatever becomes of the first cancellation."""

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from idm import cli


async def _loses_the_first_cancellation() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    await asyncio.sleep(60)


def test_a_lost_cancellation_is_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that swallowed the interrupt once is interrupted again, and ends with 130."""
    monkeypatch.setattr(cli, "CANCEL_AGAIN_S", 0.05)
    with pytest.raises(SystemExit) as ended:
        cli._run(_loses_the_first_cancellation())
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("idm: interrupted")
