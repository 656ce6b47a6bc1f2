"""Doing the same for several machines at the same time."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

AT_ONCE = 8

T = TypeVar("T")


def together(action: Callable[[T], object], subjects: Iterable[T]) -> None:
    """Do it for all at the same time; when all are through, raise the first failure."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for future in [pool.submit(action, subject) for subject in subjects]:
            future.result()


class Rendezvous:
    """Lets those that are under way to the same place go on from there together."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def under_way(self, place: str) -> Iterator[None]:
        """Hold back those who wait for this place; also who does not arrive lets them go at the end."""
        with self._arrived:
            self._under_way[place] += 1
        try:
            yield
        finally:
            with self._arrived:
                self._under_way[place] -= 1
                self._arrived.notify_all()

    def wait(self, place: str, *, timeout_s: float) -> None:
        """Wait for those under way, but not longer than that."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            self._arrived.wait_for(lambda: not self._under_way[place], timeout=deadline - time.monotonic())
