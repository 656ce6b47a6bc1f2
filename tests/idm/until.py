"""Waiting for a fact with a deadline."""

import asyncio
from collections.abc import Callable


async def until(fact: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Wait until the fact is true. Raises TimeoutError when it does not become so."""
    async with asyncio.timeout(timeout_s):
        # What is waited for happens in other processes, so no event of this loop tells it.
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
