"""Shows live dependencies without a manager: a table on a terminal, lines or the exchange format elsewhere."""

import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dma import exchange
from dma.flow import Capture, Destination, Flow, Loss
from dma.naming.dialled import Dialled
from dma.naming.names import Names

COLUMNS = ("service", "destination", "program", "attempts", "open", "pending", "failed")


def service_name(dialled: Dialled, destination: Destination) -> str:
    """The most trusted name of a destination, else its address."""
    known = dialled.lookup(destination)
    return known[0].name if known else str(destination.address)


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


def show_json(capture: Capture, intervals: Iterable[None], dialled: Dialled, output: TextIO) -> None:
    """Print one array of the exchange format per interval."""
    for _ in intervals:
        places = (flow.destination for flow in _flows(capture, dialled))
        found = (exchange.dependency(service_name(dialled, d), d.address, d.port) for d in places)
        output.write(exchange.encode(found) + "\n")
        output.flush()


def show_lines(capture: Capture, intervals: Iterable[None], dialled: Dialled, output: TextIO) -> None:
    """Print a line for each dependency that is new or has changed, per interval."""
    printed: set[tuple[str, ...]] = set()
    for _ in intervals:
        rows = _rows(_flows(capture, dialled), dialled)
        for row in rows:
            if row not in printed:
                output.write(_line(row))
        printed = set(rows)
        output.flush()


def show_table(capture: Capture, intervals: Iterable[None], dialled: Dialled, output: TextIO) -> None:
    """Keep a table on the terminal up to date."""
    with Live(_table(capture, dialled), console=Console(file=output), auto_refresh=False) as live:
        for _ in intervals:
            live.update(_table(capture, dialled), refresh=True)


def _line(row: tuple[str, ...]) -> str:
    told = (f"{column}={value}" for column, value in zip(COLUMNS[3:], row[3:], strict=True) if value)
    return f"{' '.join(row[:3])} {' '.join(told)}\n"


def _table(capture: Capture, dialled: Dialled) -> Table:
    table = Table(caption=_caption(capture.losses()), box=None)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column == "destination")
    for row in _rows(_flows(capture, dialled), dialled):
        table.add_row(*row)
    return table


def _flows(capture: Capture, dialled: Dialled) -> list[Flow]:
    flows = capture.flows()
    for flow in flows:
        dialled.note(flow)
    return flows


def _caption(losses: Mapping[Loss, int]) -> str:
    return ", ".join(f"lost ({loss.value}): {count}" for loss, count in losses.items())


def _rows(flows: Iterable[Flow], dialled: Dialled) -> list[tuple[str, ...]]:
    return sorted(_row(flow, dialled) for flow in flows)


def _row(flow: Flow, dialled: Dialled) -> tuple[str, ...]:
    transport, address, port, command = flow.destination
    host = f"[{address}]" if address.version == 6 else str(address)
    return (
        service_name(dialled, flow.destination),
        f"{transport.name.lower()}://{host}:{port}",
        command,
        str(flow.attempts),
        str(flow.open),
        str(flow.pending),
        ", ".join(f"{count} {kind.value}" for kind, count in flow.failures.items()),
    )
