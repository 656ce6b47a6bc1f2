"""Names from the answers that applications get from their name servers: no look-up is made, and none is waited for."""

import os
import select
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack

from dma.flow import Address, Destination
from dma.naming.bindings import Bindings
from dma.naming.dns_answer import DnsError
from dma.naming.dns_socket import ETH_P_IP, ETH_P_IPV6, DnsSocket
from dma.naming.method import Counters
from dma.naming.name import Name, Source

PORTS = (53,)
PER_SECOND, AT_ONCE = 2000, 500
"""Messages that are read; more wait in the kernel's buffers, and what these cannot hold is dropped."""
PAUSE_S = 0.05
DOUBT_S = 300.0
"""How long a dropped answer is thought to leave addresses without their names: as long as answers are usually good."""
_JOIN_S = 1.0


class PassiveDns:
    """Listens in the network namespace that it was made in. See ``dma.naming.method.Method``.

    A thread reads all the time, and so does whoever looks a name up: an answer that came before a connect is known
    before the connect is told of. Where no packet socket is permitted, ``counters.problem`` says so.
    """

    source = Source.PASSIVE_DNS

    def __init__(self, ports: Collection[int] = PORTS) -> None:
        self.counters = Counters()
        self._bindings = Bindings()
        self._lock = threading.Lock()
        self._allowance = float(AT_ONCE)
        self._read_s = 0.0
        self._dropped_s = -DOUBT_S
        self._sockets: list[DnsSocket] = []
        self._answers = select.poll()
        self._stack = ExitStack()
        try:
            self._listen(ports)
        except OSError as e:
            self.close()
            reason = (e.strerror or str(e)).lower()
            self.counters.problem = f"no packet socket: {reason}: run as root, or grant CAP_NET_RAW"

    def close(self) -> None:
        """End the thread, then close the sockets."""
        self._stack.close()
        with self._lock:
            self._answers = select.poll()

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """Under which names applications have asked for the address."""
        self._read()
        return self._bindings.cache.lookup(destination.address, destination.port)

    def changed(self) -> set[Address]:
        """The addresses that were answered, or whose answers have expired, since the last call."""
        self._read()
        self.counters.unnamed += time.monotonic() - self._dropped_s < DOUBT_S
        return self._bindings.cache.changed()

    def superseded(self, name: Name, address: Address) -> bool:
        """Whether the name was asked for again, and the newer answer named other addresses only."""
        return self._bindings.superseded(name, address)

    def _listen(self, ports: Collection[int]) -> None:
        for protocol in (ETH_P_IP, ETH_P_IPV6):
            self._sockets.append(self._stack.enter_context(DnsSocket(protocol, ports)))
            self._answers.register(self._sockets[-1], select.POLLIN)
        stopped = os.eventfd(0, os.EFD_CLOEXEC)
        self._stack.callback(os.close, stopped)
        thread = threading.Thread(target=self._work, args=(stopped,), name="passive-dns", daemon=True)
        thread.start()
        self._stack.callback(thread.join, _JOIN_S)
        self._stack.callback(os.eventfd_write, stopped, 1)

    def _work(self, stopped: int) -> None:
        poll = select.poll()
        for descriptor in (stopped, *(one.fileno() for one in self._sockets)):
            poll.register(descriptor, select.POLLIN)
        stop = select.poll()
        stop.register(stopped, select.POLLIN)
        while stopped not in dict(poll.poll()):
            self._read()
            if self._allowance < 1 and stop.poll(PAUSE_S * 1000):
                return

    def _read(self) -> None:
        """Take in what waits, as far as the allowance goes; also wait for the thread that is about to."""
        with self._lock:
            if not self._answers.poll(0):
                return
            now_s = time.monotonic()
            self._allowance = min(AT_ONCE, self._allowance + (now_s - self._read_s) * PER_SECOND)
            self._read_s = now_s
            for one in self._sockets:
                while self._allowance >= 1 and (message := one.receive()) is not None:
                    self._allowance -= 1
                    self._take(message)
                if dropped := one.dropped():
                    self.counters.dropped += dropped
                    self._dropped_s = now_s

    def _take(self, message: bytes) -> None:
        from dma.naming.dns_records import read_answer

        try:
            self._bindings.learn(read_answer(message))
            self.counters.answers += 1
            self.counters.problem = ""
        except DnsError as e:
            self.counters.failures += 1
            self.counters.problem = str(e)
