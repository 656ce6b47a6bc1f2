"""The connection to a libvirt daemon: its event loop, its threads, and every failure as a :class:`DriverError`."""

import enum
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue, SimpleQueue
from typing import NamedTuple, TypeVar

import libvirt

from idm.driver import DriverError

CALL_S = 30.0
# A daemon that is silent for so long, so many times, is taken for dead.
KEEPALIVE_S, KEEPALIVES = 3, 4
# The oldest release in which going back to a snapshot always makes a new process, which is what tells it from before.
OLDEST = (8, 0, 0)
# Calls that a hung daemon may hold up at the same time.
MOST_CALLS = 64
MOST_EVENTS = 1000

T = TypeVar("T")

_MISSING = {
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_NO_DOMAIN_METADATA,
    libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
    libvirt.VIR_ERR_NO_NETWORK,
}
_AGENT = {libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED}
# What can be done about it, by libvirt's own words and those of QEMU that it passes on.
_ADVICE = {
    "state change lock": "another operation on it is under way, see virsh domjobinfo",
    '" lock': "another process uses the image: end it, see fuser",
    "No space left": "make room on that file system",
    "ENOSPC": "make room on that file system",
    "Permission denied": "let QEMU's user read it, and search the directories above it",
    "unsupported for storage type": 'use qcow2 disks, or rollback.snapshot = "overlay"',
    "pflash based firmware": "use libvirt 10.10 or later, or boot it by BIOS",
    "does not support snapshots": 'use qcow2 disks, or rollback.snapshot = "overlay"',
    "VFIO": 'rollback.snapshot = "offline" can save it, its devices keep it from being saved as it runs',
}


class RefusedError(DriverError):
    """Libvirt answered, and the answer is no."""


class MissingError(RefusedError):
    """What the call is about is not there."""


class GuestAgentError(RefusedError):
    """The guest's agent does not answer."""


class AwayError(DriverError):
    """There is no daemon, or it went away during the call; whether the call had an effect is not known."""


class Turn(enum.Enum):
    """What a domain's run has taken: another power, a new beginning in the same process, or its way to a snapshot.

    It leaves for one that it may go on from only later, when somebody resumes or starts it.
    """

    POWER = "power"
    REBOOT = "reboot"
    LEAVE = "leave"
    REVERT = "revert"
    RESUME = "resume"


class Event(NamedTuple):
    """Something has happened to a domain, when it had this number among those that run; -1 is none."""

    domain: str
    turn: Turn
    number: int = -1


class Hypervisor:
    """One daemon, by its URI; threads may share it. A lost connection is opened anew by the next call.

    Every call is over within its ``timeout_s``. It fails with :class:`RefusedError` when libvirt says no, with
    :class:`AwayError` when the daemon is gone, and with a plain :class:`DriverError` when there is no answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connection: libvirt.virConnect | None = None
        self._connecting = threading.Lock()

    def close(self) -> None:
        """Let go of the connection."""
        with self._connecting:
            if self._connection is not None:
                with suppress(libvirt.libvirtError):
                    self._connection.close()
                self._connection = None

    def call(self, action: Callable[["libvirt.virConnect"], T], *, timeout_s: float = CALL_S) -> T:
        """Do something with the connection."""
        connection = self._connected()
        try:
            return _within(timeout_s, lambda: action(connection))
        except libvirt.libvirtError as e:
            raise self._translate(e) from e

    def version(self) -> tuple[int, int, int]:
        """The daemon's release."""
        number = self.call(lambda connection: int(connection.getLibVersion()))
        return number // 1_000_000, number // 1000 % 1000, number % 1000

    def capabilities(self) -> str:
        """What the host can run, as libvirt's XML."""
        return self.call(lambda connection: str(connection.getCapabilities()))

    def domains(self) -> list[str]:
        """The names of all domains, of whomever they are."""
        return self.call(lambda connection: [domain.name() for domain in connection.listAllDomains()])

    def running(self) -> dict[str, bool]:
        """Whether each domain is active, by name, of whomever it is."""
        return self.call(
            lambda connection: {
                domain.name(): bool(domain.isActive()) for domain in connection.listAllDomains()
            }
        )

    def name_of(self, uuid: str) -> str:
        """The name of the domain of that UUID; empty when there is none."""
        try:
            return self.call(lambda connection: str(connection.lookupByUUIDString(uuid).name()))
        except MissingError:
            return ""

    def define(self, xml: str) -> None:
        """Define a domain."""
        self.call(lambda connection: connection.defineXML(xml))

    def network(self, name: str) -> tuple[str, bool] | None:
        """A network's UUID, and whether it is up."""

        def look(connection: "libvirt.virConnect") -> tuple[str, bool]:
            network = connection.networkLookupByName(name)
            return network.UUIDString(), bool(network.isActive())

        try:
            return self.call(look)
        except MissingError:
            return None

    def network_xml(self, name: str) -> str:
        """A network's definition."""
        return self.call(lambda connection: str(connection.networkLookupByName(name).XMLDesc()))

    def start_network(self, name: str, *, xml: str = "") -> None:
        """Bring a network up, and with every start of the daemon from now on; ``xml`` defines it first."""

        def start(connection: "libvirt.virConnect") -> None:
            network = connection.networkDefineXML(xml) if xml else connection.networkLookupByName(name)
            network.setAutostart(True)
            network.create()

        self.call(start)

    def remove_network(self, name: str) -> None:
        """Take a network down and forget it."""

        def remove(connection: "libvirt.virConnect") -> None:
            network = connection.networkLookupByName(name)
            if network.isActive():
                network.destroy()
            network.undefine()

        self.call(remove)

    @contextmanager
    def events(self) -> "Iterator[Events]":
        """Be told what happens to domains from now on."""
        connection = self._connected()
        events = Events()

        def lifecycle(_: object, domain: "libvirt.virDomain", event: int, detail: int, __: object) -> None:
            events.put(Event(domain.name(), _turn(event, detail), domain.ID()))

        def reboot(_: object, domain: "libvirt.virDomain", __: object) -> None:
            events.put(Event(domain.name(), Turn.REBOOT))

        def register() -> list[int]:
            connection.registerCloseCallback(lambda *_: events.end(), None)
            return [
                connection.domainEventRegisterAny(
                    None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None
                ),
                connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot, None),
            ]

        def deregister(callbacks: list[int]) -> None:
            for callback in callbacks:
                connection.domainEventDeregisterAny(callback)
            connection.unregisterCloseCallback()

        try:
            callbacks = _within(CALL_S, register)
        except libvirt.libvirtError as e:
            raise self._translate(e) from e
        try:
            yield events
        finally:
            # A connection that is lost has forgotten them.
            with suppress(libvirt.libvirtError, DriverError):
                _within(CALL_S, lambda: deregister(callbacks))

    def _connected(self) -> "libvirt.virConnect":
        with self._connecting:
            if self._connection is None or not self._connection.isAlive():
                self._connection = self._open()
            return self._connection

    def _open(self) -> "libvirt.virConnect":
        _start_event_loop()
        try:
            connection = _within(CALL_S, lambda: libvirt.open(self._uri))
        except libvirt.libvirtError as e:
            raise AwayError(
                f"libvirt does not answer at {self._uri}, {_words(e)}: systemctl start libvirtd, or set [libvirt] uri"
            ) from e
        # A driver within this process, as libvirt's own for tests, knows no keepalive.
        with suppress(libvirt.libvirtError):
            _within(CALL_S, lambda: connection.setKeepAlive(KEEPALIVE_S, KEEPALIVES))
        return connection

    def _translate(self, error: "libvirt.libvirtError") -> DriverError:
        words, code = _words(error), error.get_error_code()
        if error.get_error_domain() == libvirt.VIR_FROM_RPC or code == libvirt.VIR_ERR_INVALID_CONN:
            return AwayError(f"libvirt went away at {self._uri}, {words}: systemctl status libvirtd says why")
        if code in _MISSING:
            return MissingError(words)
        if code in _AGENT or "agent is not" in words:
            return GuestAgentError(words)
        return RefusedError(
            words + next((f": {advice}" for sign, advice in _ADVICE.items() if sign in words), "")
        )


class Events:
    """What has been told and not been taken yet. Iterating ends when the connection is lost, or by :meth:`end`."""

    def __init__(self) -> None:
        self._queue: Queue[Event] = Queue(MOST_EVENTS)
        self._ended = threading.Event()

    def put(self, event: Event) -> None:
        """Add one. When too many wait the iteration ends, since it could not tell what was left out."""
        try:
            self._queue.put_nowait(event)
        except Full:
            self.end()

    def end(self) -> None:
        """End the iteration."""
        self._ended.set()
        with suppress(Full):
            self._queue.put_nowait(Event("", Turn.POWER))

    def __iter__(self) -> Iterator[Event]:
        while not self._ended.is_set():
            event = self._queue.get()
            if event.domain:
                yield event


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Say what was refused, and what to try; a daemon that does not answer speaks for itself."""
    try:
        yield
    except RefusedError as e:
        raise DriverError(f"{what}: {e}: {advice}") from e


def _turn(event: int, detail: int) -> Turn:
    match event, detail:
        case libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT:
            return Turn.LEAVE
        case libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT:
            return Turn.REVERT
        case libvirt.VIR_DOMAIN_EVENT_RESUMED, _:
            # Its detail is the same for one that was taken back and one that was only saved.
            return Turn.RESUME
        case _:
            return Turn.POWER


def _words(error: "libvirt.libvirtError") -> str:
    words = " ".join(str(error.get_error_message() or error).split())
    return words[:1].lower() + words[1:]


_loop_lock = threading.Lock()
_loops: list[threading.Thread] = []
_calls = threading.BoundedSemaphore(MOST_CALLS)


def _start_event_loop() -> None:
    """Run libvirt's event loop; once for the process, and before the first connection is opened."""
    with _loop_lock:
        if not _loops:
            # It would print what is raised anyway.
            libvirt.registerErrorHandler(lambda *_: None, None)
            libvirt.virEventRegisterDefaultImpl()
            _loops.append(threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True))
            _loops[0].start()


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _within(timeout_s: float, action: Callable[[], T]) -> T:
    """Do it on another thread, since libvirt's calls know no deadline; one that passes it is left behind."""
    deadline = time.monotonic() + timeout_s
    if not _calls.acquire(timeout=timeout_s):
        raise DriverError(f"{MOST_CALLS} calls of libvirt hang: systemctl restart libvirtd")
    answers: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((action(), None))
        except (libvirt.libvirtError, DriverError) as e:
            # Libvirt's objects must not wait for the garbage collector in a traceback: they reset the thread's last
            # error as they go, and it may belong to another call by then.
            traceback.clear_frames(e.__traceback__)
            answers.put((None, e))
        finally:
            _calls.release()

    threading.Thread(target=run, name="libvirt-call", daemon=True).start()
    try:
        answer, error = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        raise DriverError(
            f"libvirt did not answer within {timeout_s:.0f} s: look at the machine's load and libvirtd's log"
        ) from None
    if error is not None:
        try:
            raise error
        finally:
            del error
    # Without an error there is an answer; one that is None is the call's own.
    return answer  # type: ignore[return-value]
