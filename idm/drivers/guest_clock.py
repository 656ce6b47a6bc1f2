"""The clocks of guests that have gone back: set in the background, since nobody has to wait for them."""

import threading
import time

import structlog

from idm.driver import DriverError
from idm.drivers.guest_agent import GuestAgent
from idm.drivers.libvirt_connection import RefusedError
from idm.drivers.libvirt_domain import Domain

CLOCK_S = 30.0
AGAIN_S = 0.1

_log = structlog.get_logger()


class Clocks:
    """Sets each guest's clock once in a run, whoever notices that it must be; stops trying when ``closing`` is set."""

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing
        self._runs: dict[str, str] = {}
        self._lock = threading.Lock()

    def set(self, vcd: str, domain: Domain, agent: GuestAgent) -> None:
        """Begin to; a failure is only logged."""
        threading.Thread(target=self._set, args=(vcd, domain, agent), name="clock", daemon=True).start()

    def _set(self, vcd: str, domain: Domain, agent: GuestAgent) -> None:
        run = ""
        try:
            run = domain.run()
            with self._lock:
                if self._runs.get(vcd) == run:
                    return
                self._runs[vcd] = run
            self._try(domain, agent, run)
        except DriverError as e:
            with self._lock:
                # Such as one that is held: it is tried again when it goes on.
                if self._runs.get(vcd) == run:
                    del self._runs[vcd]
            if not self._closing.is_set():
                _log.warning("the guest's clock is not set after its way back", vcd=vcd, problem=str(e))

    def _try(self, domain: Domain, agent: GuestAgent, run: str) -> None:
        """Until it is set, or the guest has become another one."""
        deadline = time.monotonic() + CLOCK_S
        while domain.run() == run and not self._closing.wait(AGAIN_S):
            try:
                agent.set_clock()
            except RefusedError:
                if time.monotonic() > deadline:
                    raise
            else:
                return
