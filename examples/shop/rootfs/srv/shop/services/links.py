"""Where the other services are, and connections to them that are watched and heal themselves."""

import logging
import random
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
PING_S = 1.0
RETRY_S = 0.5

C = TypeVar("C")
R = TypeVar("R")


class UnavailableError(Exception):
    """A dependency cannot be used now; the message names it."""


class Address(NamedTuple):
    """Where a service listens. The name is looked up anew for every connection."""

    host: str
    port: int


def settings(service: str) -> dict[str, Address]:
    """The dependencies of a service, by name, from its file in /etc/shop."""
    entries = tomllib.loads(Path(f"/etc/shop/{service}.toml").read_text())
    split = {name: str(entry).rpartition(":") for name, entry in entries.items()}
    return {name: Address(host, int(port)) for name, (host, _, port) in split.items()}


def jittered(seconds: float) -> float:
    """About so many seconds, so that the services' rhythms do not lock to each other."""
    return seconds * random.uniform(0.8, 1.2)


class Link(Generic[C]):
    """One connection that is kept open: pinged once a second, closed at any failure, opened again for ever.

    ``connect`` and ``ping`` raise one of ``errors`` when they fail. The connection is replaced after ``lifetime_s``.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], C],
        ping: Callable[[C], object],
        close: Callable[[C], object],
        errors: tuple[type[Exception], ...] = (OSError,),
        lifetime_s: float = float("inf"),
    ) -> None:
        self.name = name
        self._connect, self._ping, self._close = connect, ping, close
        self._errors = errors
        self._lifetime_s = lifetime_s
        self._lock = threading.Lock()
        self._connection: C | None = None
        self._opened = 0.0
        threading.Thread(target=self._watch, name=f"link to {name}", daemon=True).start()

    def use(self, action: Callable[[C], R]) -> R:
        """Do one thing with the connection, alone. Raises :class:`UnavailableError` when that fails or none is open."""
        with self._lock:
            if self._connection is None:
                raise UnavailableError(f"{self.name} is not connected")
            try:
                return action(self._connection)
            except self._errors as error:
                self._drop()
                raise UnavailableError(f"{self.name} failed: {error}") from error

    def _watch(self) -> None:
        while True:
            with self._lock:
                alive = self._check()
            time.sleep(jittered(PING_S if alive else RETRY_S))

    def _check(self) -> bool:
        try:
            if self._connection is not None and time.monotonic() - self._opened > self._lifetime_s:
                self._drop()
            if self._connection is None:
                self._connection = self._connect()
                self._opened = time.monotonic()
            self._ping(self._connection)
        except self._errors as error:
            self._drop()
            log.warning("%s: %s", self.name, str(error).partition("\n")[0])
            return False
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._close(connection)
