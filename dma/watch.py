"""Shows live dependencies without a manager: a table on a terminal, lines or the exchange format elsewhere."""

import select
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dma import exchange, presence
from dma.conntrack import Backends, Conntrack
from dma.flow import Address, Capture, Destination, Flow
from dma.naming.dialled import Dialled
from dma.naming.names import Names
from dma.netlink import NetlinkError

Show = Callable[["View", Iterable[None], TextIO, TextIO], None]
COLUMNS = ("service", "destination", "program", "attempts", "open", "pending", "failed", "behind")


class View:
    """What is to be shown: the capture's flows, with the names and the backends of their destinations."""

    def __init__(self, capture: Capture, names: Names, *, around: Conntrack | None = None) -> None:
        self._capture = capture
        self._dialled = Dialled(names)
        self._backends = Backends(around)

    def flows(self) -> Sequence[Flow]:
        """All flows now; raises ``CaptureError``."""
        flows = self._backends.known(self._capture.flows(), sources=_own_addresses())
        for flow in flows:
            self._dialled.note(flow)
        return flows

    def lost(self) -> str:
        """Losses by reason, in words; raises ``CaptureError``."""
        return ", ".join(f"lost ({loss.value}): {count}" for loss, count in self._capture.losses().items())

    def name(self, destination: Destination) -> str:
        """The most trusted name of a destination, else its address."""
        known = self._dialled.lookup(destination)
        return known[0].name if known else str(destination.address)


def _own_addresses() -> Collection[Address]:
    try:
        return presence.addresses()
    except NetlinkError:
        return ()


def ticks(
    capture: Capture, names: Names, *, interval_s: float, count: int | None, duration_s: float | None
) -> Iterator[None]:
    """One tick at the end of every interval, until the limit, SIGINT or SIGTERM; the capture is drained meanwhile."""
    start = time.monotonic()
    end = start + duration_s if duration_s is not None else None
    with stop_signals() as stopped:
        tick = 0
        while count is None or tick < count:
            tick += 1
            due = start + tick * interval_s
            if not _wait(capture, stopped, min(due, end) if end else due):
                return
            names.changed()
            yield
            if end is not None and due >= end:
                return


def _wait(capture: Capture, stopped: socket.socket, due: float) -> bool:
    """Drain the capture until it is time; False when a signal came first."""
    while (left := due - time.monotonic()) > 0:
        ready, _, _ = select.select([capture.fileno(), stopped.fileno()], [], [], left)
        if stopped.fileno() in ready:
            return False
        if ready:
            capture.drain()
    return True


@contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """A socket that becomes readable on SIGINT or SIGTERM, which do nothing else meanwhile."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def show_json(view: View, intervals: Iterable[None], output: TextIO, errors: TextIO) -> None:
    """Print one array of the exchange format per interval; losses go to ``errors``."""
    lost = ""
    for _ in intervals:
        places = (flow.destination for flow in view.flows())
        found = (exchange.dependency(view.name(d), d.address, d.port) for d in places)
        output.write(exchange.encode(found) + "\n")
        output.flush()
        lost = _tell_losses(view, lost, errors)


def show_lines(view: View, intervals: Iterable[None], output: TextIO, errors: TextIO) -> None:
    """Print a line for each dependency that is new or has changed, per interval; losses go to ``errors``."""
    printed: set[tuple[str, ...]] = set()
    lost = ""
    for _ in intervals:
        rows = _rows(view)
        for row in rows:
            if row not in printed:
                output.write(_line(row))
        printed = set(rows)
        output.flush()
        lost = _tell_losses(view, lost, errors)


def show_table(view: View, intervals: Iterable[None], output: TextIO, _errors: TextIO) -> None:
    """Keep a table on the terminal up to date, with the losses below it."""
    with Live(_table(view), console=Console(file=output), auto_refresh=False) as live:
        for _ in intervals:
            live.update(_table(view), refresh=True)


def _tell_losses(view: View, told: str, errors: TextIO) -> str:
    """Say what was lost so far, if that is news."""
    lost = view.lost()
    if lost != told:
        errors.write(f"{lost}\n")
        errors.flush()
    return lost


def _line(row: tuple[str, ...]) -> str:
    told = (f"{column}={value}" for column, value in zip(COLUMNS[3:], row[3:], strict=True) if value)
    return f"{' '.join(row[:3])} {' '.join(told)}\n"


def _table(view: View) -> Table:
    table = Table(caption=view.lost(), box=None)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column == "destination")
    for row in _rows(view):
        table.add_row(*row)
    return table


def _rows(view: View) -> list[tuple[str, ...]]:
    return sorted(_row(flow, view) for flow in view.flows())


def _row(flow: Flow, view: View) -> tuple[str, ...]:
    transport, address, port, command = flow.destination
    return (
        view.name(flow.destination),
        f"{transport.name.lower()}://{_place(address, port)}",
        command,
        str(flow.attempts),
        str(flow.open),
        str(flow.pending),
        ", ".join(f"{count} {kind.value}" for kind, count in flow.failures.items()),
        ", ".join(_place(*backend) for backend in flow.backends),
    )


def _place(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
