"""What can be told of connections from looking at the sockets again and again. Pure: the clock is passed in."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dma.capture.settings import Settings
from dma.capture.table import IDLE_NS
from dma.flow import Address, Destination, Failure, Flow, Transport
from dma.sockets import ESTABLISHED, LISTEN, SYN_SENT


class Sighting(NamedTuple):
    """One TCP socket as it is now; its cookie is never another's."""

    cookie: int
    state: int
    local_port: int
    address: Address
    port: int
    inode: int
    cgroup: int


class _Socket(NamedTuple):
    """A socket that was seen before; one without a destination is no concern of ours."""

    destination: Destination | None
    state: int
    since_ns: int


@dataclass
class _Tally:
    """The counters of one destination, named as in ``Flow``."""

    first_ns: int
    attempts: int = 0
    established: int = 0
    open: int = 0
    cancelled: int = 0
    timed_out: int = 0
    last_attempt_ns: int = 0
    last_established_ns: int = 0
    last_failure_ns: int = 0
    waiting: set[int] = field(default_factory=set)
    oldest_pending_ns: int = 0

    def begin(self, cookie: int, now_ns: int) -> None:
        """An attempt."""
        self.attempts += 1
        self.last_attempt_ns = now_ns
        if not self.waiting:
            self.oldest_pending_ns = now_ns
        self.waiting.add(cookie)

    def establish(self, cookie: int, now_ns: int) -> None:
        """The attempt was answered, and others at the same place may hope again."""
        self.waiting.discard(cookie)
        self.established += 1
        self.last_established_ns = self.oldest_pending_ns = now_ns

    def give_up(self, cookie: int, now_ns: int, *, has_failed: bool) -> bool:
        """The attempt is gone, and nobody saw why: it has timed out if it had waited for long, else is cancelled."""
        self.waiting.discard(cookie)
        if has_failed:
            self.timed_out += 1
            self.last_failure_ns = now_ns
        else:
            self.cancelled += 1
        return has_failed

    def idle(self) -> bool:
        """Whether nothing holds it."""
        return not (self.open or self.waiting)


class Sightings:
    """Keeps the sockets of the last look, and counts what became of them until the next.

    What the first look finds established is older than the capture, and is not counted. A connection through a local
    port on which something listens was accepted, and is no dependency.
    """

    def __init__(self, settings: Settings) -> None:
        self.lost = 0
        """Attempts that found no room."""
        self._settings = settings
        self._sockets: dict[int, _Socket] = {}
        self._is_first = True
        self._news = False
        self._listening: Collection[int] = frozenset()
        self._tallies: dict[Destination, _Tally] = {}

    def look(
        self, sockets: Iterable[Sighting], now_ns: int, *, is_watched: Callable[[Sighting], bool]
    ) -> bool:
        """Take in all sockets that there are; returns whether a destination is new or an attempt failed.

        ``is_watched`` is asked of each that was never seen before, if it matters.
        """
        now = {one.cookie: one for one in sockets}
        listening = {one.local_port for one in now.values() if one.state == LISTEN}
        # A listener may have been closed since it accepted.
        accepting, self._listening = listening.union(self._listening), listening
        self._news = False
        for cookie in self._sockets.keys() - now.keys():
            self._leave(cookie, self._sockets.pop(cookie), now_ns)
        for cookie, one in now.items():
            known = self._sockets.get(cookie)
            if known is None:
                called = one.state == SYN_SENT or (not self._is_first and one.local_port not in accepting)
                wanted = called and self._is_wanted(one.address) and is_watched(one)
                known = _Socket(self._meet(one, now_ns) if wanted else None, SYN_SENT, now_ns)
            self._sockets[cookie] = self._follow(one, known, now_ns)
        self._is_first = False
        return self._news

    def flows(self) -> list[Flow]:
        """All destinations with something to say since the last ``clear``."""
        told = (_flow(destination, tally) for destination, tally in self._tallies.items())
        return [flow for flow in told if flow.attempts or flow.open or flow.pending]

    def clear(self, now_ns: int) -> None:
        """Count from here; what is open or waiting stays so."""
        self._tallies = {
            destination: _Tally(
                now_ns, open=tally.open, waiting=tally.waiting, oldest_pending_ns=tally.oldest_pending_ns
            )
            for destination, tally in self._tallies.items()
            if not tally.idle()
        }

    def _meet(self, one: Sighting, now_ns: int) -> Destination | None:
        """Count a socket never seen before as an attempt; returns whose, or nothing where there is no room."""
        destination = Destination(Transport.TCP, one.address, one.port, "")
        if destination not in self._tallies:
            if not self._make_room(now_ns):
                self.lost += 1
                return None
            self._tallies[destination] = _Tally(now_ns)
            self._news = True
        self._tallies[destination].begin(one.cookie, now_ns)
        return destination

    def _follow(self, one: Sighting, known: _Socket, now_ns: int) -> _Socket:
        """Count how a socket has changed its state; one that is closing already had been established."""
        tally = self._tally(known)
        if tally and one.state != known.state:
            if known.state == SYN_SENT:
                tally.establish(one.cookie, now_ns)
            tally.open += (one.state == ESTABLISHED) - (known.state == ESTABLISHED)
        return known._replace(state=one.state)

    def _leave(self, cookie: int, known: _Socket, now_ns: int) -> None:
        """Count the end of a socket that is no more."""
        tally = self._tally(known)
        if tally and known.state == ESTABLISHED:
            tally.open -= 1
        elif tally and known.state == SYN_SENT:
            waited_ns, patience_ns = now_ns - known.since_ns, self._settings.patience_ms * 1_000_000
            self._news |= tally.give_up(cookie, now_ns, has_failed=waited_ns >= patience_ns)

    def _tally(self, socket: _Socket) -> _Tally | None:
        """Forgotten ones are told of no more: nothing held them open."""
        return self._tallies.get(socket.destination) if socket.destination else None

    def _make_room(self, now_ns: int) -> bool:
        """Whether another destination fits in, if need be for ones that nobody has called for long."""
        if len(self._tallies) >= self._settings.max_entries:
            before_ns = now_ns - IDLE_NS
            self._tallies = {
                destination: tally
                for destination, tally in self._tallies.items()
                if not tally.idle() or tally.last_attempt_ns >= before_ns
            }
        return len(self._tallies) < self._settings.max_entries

    def _is_wanted(self, address: Address) -> bool:
        """As the kernel's programs decide: neighbours and discovery are noise, and loopback is if so set."""
        if address.is_loopback or address.is_unspecified:
            return self._settings.keep_loopback
        return not (address.is_link_local or address.is_multicast)


def _flow(destination: Destination, tally: _Tally) -> Flow:
    return Flow(
        destination=destination,
        attempts=tally.attempts,
        established=tally.established,
        open=tally.open,
        pending=len(tally.waiting),
        cancelled=tally.cancelled,
        failures={Failure.TIMED_OUT: tally.timed_out} if tally.timed_out else {},
        last_errno=0,
        first_ns=tally.first_ns,
        last_attempt_ns=tally.last_attempt_ns,
        last_established_ns=tally.last_established_ns,
        last_failure_ns=tally.last_failure_ns,
        oldest_pending_ns=tally.oldest_pending_ns if tally.waiting else 0,
    )
