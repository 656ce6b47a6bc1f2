"""The ``netlink`` plan: no probes at all, only looking at the sockets again and again. Degraded, and it says so.

pyroute2 is imported when this plan is opened, by the one thread that uses it: the other plans need not pay for it, and
its sockets do not work where an event loop is running.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any, Self

from dma import sockets
from dma.capture.settings import Settings
from dma.capture.sightings import Sighting, Sightings
from dma.capture.target import Target, cgroup_inodes, netns_inode, opened_cgroup
from dma.flow import Address, CaptureError, Flow, Loss, Probe
from dma.namespace import NamespaceError, enter_network
from dma.netlink import NetlinkError

POLL_S = 0.2
REST = 10
"""A look at many sockets takes long, and is followed by a rest this many times as long."""
DEADLINE_S = 5.0
OPEN_S = 30.0
"""The first look waits for pyroute2 to be imported, which takes long in a machine that has just booted."""

OWN_NETNS = Path("/proc/thread-self/ns/net")
# include/net/tcp_states.h: all but SYN_RECV, TIME_WAIT and CLOSE.
STATES = sum(1 << state for state in (1, 2, 4, 5, 8, 9, 10, 11))

BLIND = (
    Probe("short_connections", f"those that begin and end within {POLL_S} s are not seen"),
    Probe("failures", "only attempts without an answer are seen"),
    Probe("datagrams", "not seen"),
    Probe("programs", "not known", detail=True),
)
ONE_NAMESPACE = Probe("other_namespaces", "not seen: start one agent in each, with --netns")


class NetlinkCapture:
    """See ``dma.flow.Capture``; made by ``open_netlink_capture``."""

    plan = "netlink"
    loader = "none"

    def __init__(self, target: Target, settings: Settings) -> None:
        self.probes = (Probe("sock_diag", ""), *BLIND, *(() if target.netns else (ONE_NAMESPACE,)))
        self._target = target
        self._sightings = Sightings(settings)
        self._turn = threading.Condition()
        self._begun = self._done = self._asked = 0  # looks, by number
        self._problem = ""
        self._closing = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="sock_diag", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._turn:
            self._closing = True
            self._turn.notify_all()
        self._thread.join(DEADLINE_S)
        os.close(self._event)

    def fileno(self) -> int:
        """A descriptor that polls readable when a first sighting or a failure is there."""
        return self._event

    def drain(self) -> int:
        """Consume what made ``fileno`` readable; returns the number of looks that found something."""
        with suppress(BlockingIOError):
            return os.eventfd_read(self._event)
        return 0

    def flows(self) -> list[Flow]:
        """All destinations seen, with their counters now."""
        with self._turn:
            self.refresh()
            return self._sightings.flows()

    def losses(self) -> Mapping[Loss, int]:
        """Attempts that found no room."""
        with self._turn:
            return {Loss.MAP_FULL: self._sightings.lost} if self._sightings.lost else {}

    def clear(self) -> None:
        """Forget everything counted so far; connections still open stay counted as open."""
        with self._turn:
            self.refresh()
            self._sightings.clear(time.monotonic_ns())

    def refresh(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait for a look that begins from now on; raises ``CaptureError``."""
        with self._turn:
            number = self._asked = self._begun + 1
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: self._done >= number or self._problem, deadline_s):
                raise CaptureError(
                    f"the kernel did not list its sockets in {deadline_s:g} s: run `dma doctor`"
                )
            if self._problem:
                raise CaptureError(self._problem)

    def _run(self) -> None:
        """The thread: look, rest, look."""
        try:
            with _opened(self._target.netns) as diagnostics:
                while self._look(diagnostics):
                    pass
        except (CaptureError, NamespaceError, NetlinkError, OSError) as e:
            with self._turn:
                self._problem = str(e)
                self._turn.notify_all()

    def _look(self, diagnostics: Any) -> bool:
        """Take in what sockets there are, and rest until the next look is due or asked for; False when closing."""
        with self._turn:
            self._begun += 1
        begun_s = time.monotonic()
        watched = _Watched(self._target.cgroup)
        found = list(_sightings(diagnostics))
        with self._turn:
            if self._sightings.look(found, time.monotonic_ns(), is_watched=watched.includes):
                os.eventfd_write(self._event, 1)
            self._done = self._begun
            self._turn.notify_all()
            rest_s = max(POLL_S, REST * (time.monotonic() - begun_s))
            self._turn.wait_for(lambda: self._closing or self._asked > self._begun, rest_s)
            return not self._closing


class _Watched:
    """Whose sockets count in one look; made before it, and read once more only if it meets a new one."""

    def __init__(self, cgroup: Path | None) -> None:
        self._cgroup = cgroup
        self._own_before = sockets.own_inodes()

    def includes(self, one: Sighting) -> bool:
        """Other programs' sockets, in the cgroup if one is watched; whose an orphan is nobody knows."""
        if not one.inode or one.inode in self._own_before or one.inode in self._own_after:
            return False
        return self._cgroup is None or one.cgroup in self._inside

    @cached_property
    def _own_after(self) -> frozenset[int]:
        return sockets.own_inodes()

    @cached_property
    def _inside(self) -> frozenset[int]:
        return cgroup_inodes(self._cgroup) if self._cgroup else frozenset()


def open_netlink_capture(target: Target, settings: Settings) -> NetlinkCapture:
    """Take a first look, after which everything new counts; raises ``CaptureError``."""
    if target.cgroup:
        with opened_cgroup(target.cgroup):
            pass
    capture = NetlinkCapture(target, settings)
    try:
        capture.refresh(OPEN_S)
    except CaptureError:
        capture.__exit__()
        raise
    return capture


@contextmanager
def _opened(netns: Path | None) -> Iterator[Any]:
    """Socket diagnostics of the calling thread's network namespace, which is ``netns`` from now on."""
    if netns:
        with netns_inode(netns) as wanted:
            if wanted != OWN_NETNS.stat().st_ino:
                enter_network(netns)
    # pyroute2's diagnostics hear no refusal of the kernel, and would find nothing for ever: ask by our own first.
    next(sockets.connections(), None)
    import pyroute2

    try:
        with pyroute2.DiagSocket() as diagnostics:
            diagnostics.bind()
            yield diagnostics
    except pyroute2.NetlinkError as e:
        raise CaptureError(f"the kernel does not list its sockets: {str(e).lower()}: run `dma doctor`") from e


def _sightings(diagnostics: Any) -> Iterator[Sighting]:
    for family in (AF_INET, AF_INET6):
        for message in diagnostics.get_sock_stats(family=family, states=STATES):
            yield Sighting(
                cookie=message["idiag_cookie"],
                state=message["idiag_state"],
                local_port=message["idiag_sport"],
                address=_address(message["idiag_dst"]),
                port=message["idiag_dport"],
                inode=message["idiag_inode"],
                cgroup=message.get_attr("INET_DIAG_CGROUP_ID") or 0,
            )


def _address(text: str) -> Address:
    address = ip_address(text)
    return address.ipv4_mapped or address if address.version == 6 else address
