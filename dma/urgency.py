"""Wakes the agent when the capture has something that must not wait for the interval, but not too often."""

import asyncio
from typing import Self

from dma.flow import Capture

QUIET_S = 0.1
"""After each alarm; what happens in it is told at its end."""


class Urgency:
    """Watches ``capture.fileno`` in the running event loop; a context manager."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._quiet: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._watch()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.remove_reader(self._capture.fileno())
        if self._quiet:
            self._quiet.cancel()

    async def wait(self, until_s: float) -> bool:
        """Wait for something urgent, until a time of the loop's clock; False when it came to nothing."""
        try:
            async with asyncio.timeout_at(until_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def alert(self) -> None:
        """Wake whoever waits, for a reason of our own."""
        self._event.set()

    def _watch(self) -> None:
        self._loop.add_reader(self._capture.fileno(), self._alarm)

    def _alarm(self) -> None:
        self._loop.remove_reader(self._capture.fileno())
        self._quiet = self._loop.call_later(QUIET_S, self._watch)
        self._capture.drain()
        self._event.set()
