"""Looking names up, and waiting for them."""

import threading
import time
from collections.abc import Callable
from ipaddress import ip_address

from dma.flow import Destination, Transport
from dma.naming.method import Method

DEADLINE_S = 5.0
"""No name may outlive its registration by more."""


def called(method: Method, address: str, port: int) -> tuple[str, ...]:
    """What a method calls a place, the best name first."""
    destination = Destination(Transport.TCP, ip_address(address), port, "curl")
    return tuple(name.name for name in method.lookup(destination))


def until(condition: Callable[[], object], *, within_s: float = DEADLINE_S) -> float:
    """Wait for what threads and servers do; returns how long it took."""
    begin_s, pause = time.monotonic(), threading.Event()
    while not condition():
        assert time.monotonic() < begin_s + within_s, f"not within {within_s} s"
        pause.wait(0.02)
    return time.monotonic() - begin_s
