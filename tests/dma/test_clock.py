"""Hearing that the clock is set; that it is heard, guests show whose clock is behind (tests/vm)."""

import asyncio
import os
from pathlib import Path

from dma.clock import clock_watched


def timers() -> list[str]:
    """What the kernel says of this process's timers for the time of day."""
    files = Path("/proc/self/fdinfo").iterdir()
    said = (file.read_text() for file in list(files) if file.exists())
    return [text for text in said if "clockid: 0" in text]


def test_a_clock_that_is_left_alone_wakes_nobody() -> None:
    """One timer waits for the clock to be set; nothing is called, and nothing is left open afterwards."""
    called: list[None] = []
    armed: list[str] = []

    async def scene() -> None:
        with clock_watched(lambda: called.append(None)):
            armed.extend(timers())

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(scene())
    assert len(armed) == 1
    assert "settime flags: 03" in armed[0]
    assert called == []
    assert len(os.listdir("/proc/self/fd")) == before
