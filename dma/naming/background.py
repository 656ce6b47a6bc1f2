"""Work that waits for others, behind the back of whoever looks names up."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import NoReturn

END_S = 1.0


class Background:
    """A thread with an event loop and one task in it; it begins in the network namespace of the calling thread."""

    def __init__(self, work: Coroutine[None, None, NoReturn], *, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> None:
        """Have something done in the thread."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Cancel the task; a thread that does not end soon is left to end with the process."""
        self.call(self._task.cancel)
        self._thread.join(END_S)

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
