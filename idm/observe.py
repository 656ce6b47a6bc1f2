"""What the instances do: told by the driver's events, and listed anew now and then in case an event was missed."""

import asyncio
import threading
from collections.abc import Callable

import structlog

from idm.driver import Driver, DriverError, Instance, Power

RELIST_S = 5.0
# While an engine is away, its events are asked for again after so long.
AWAY_S = 1.0
STILL = frozenset({Power.PAUSED, Power.STOPPED})

_log = structlog.get_logger()


class Observer:
    """Keeps the present instances of a stack and says which ones changed.

    ``saving`` tells whether another process of this deployer takes snapshots, for which machines have to stand still.
    """

    def __init__(
        self,
        driver: Driver,
        vcds: list[str],
        *,
        on_change: Callable[[Instance], None],
        saving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._driver = driver
        self._vcds = vcds
        self._on_change = on_change
        self._saving = saving
        self._look = asyncio.Event()
        self._closing = threading.Event()
        self.instances: dict[str, Instance] = {}

    def look(self) -> None:
        """Look again at once."""
        self._look.set()

    async def refresh(self) -> None:
        """List the instances now. Raises :class:`DriverError`."""
        # In this order: what stands still now, and is let go meanwhile, has an event to come.
        saving = await asyncio.to_thread(self._saving)
        present = await asyncio.to_thread(self._driver.instances)
        for vcd in self._vcds:
            instance = present.get(vcd) or Instance(vcd, Power.ABSENT, "", None, None)
            if saving and instance.power in STILL:
                instance = instance._replace(held="stands still for a snapshot of the stack")
            if self.instances.get(vcd) != instance:
                self.instances[vcd] = instance
                self._on_change(instance)

    async def run(self) -> None:
        """Observe until cancelled."""
        loop = asyncio.get_running_loop()
        # A thread of its own, since the iterator blocks for as long as nothing happens.
        threading.Thread(target=self._listen, args=(loop,), name="driver-events", daemon=True).start()
        try:
            while True:
                self._look.clear()
                try:
                    await self.refresh()
                except DriverError as e:
                    _log.warning("instances cannot be listed", problem=str(e))
                await self._wait()
        finally:
            self._closing.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(RELIST_S):
                await self._look.wait()
        except TimeoutError:
            return

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._closing.is_set():
            try:
                for _ in self._driver.events():
                    loop.call_soon_threadsafe(self._look.set)
            except DriverError as e:
                _log.warning("no events from the driver, listing instead", problem=str(e))
            except RuntimeError:
                # The loop is closed: nobody listens any more.
                return
            self._closing.wait(AWAY_S)
