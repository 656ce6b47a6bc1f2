"""What each rival adds to a call, in rounds that take turns, so that a change of the machine's load meets all alike."""

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dma.flow import Transport
from tests.bench.capture.load import Generator
from tests.bench.capture.rivals import Rival

CONNECTED = "connected"
KINDS = {"tcp": Transport.TCP, "udp": Transport.UDP, CONNECTED: Transport.UDP}
NOTHING = "nothing"
FLOOR, BPFTRACE, OURS = "empty programs on the same hooks", "bpftrace", "ours"
TCPCONNECT, TCPTRACER, PACKETS, CONNTRACK = "tcpconnect of bcc", "tcptracer of bcc", "tcpdump", "conntrack -E"
SLICE_MS = {"tcp": 500, "udp": 200, "connected": 200}


@dataclass
class Costs:
    """Nanoseconds of CPU time that a call of a kind took with a rival attached: one figure a round.

    What the rival's own process takes for a call is part of it.
    """

    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By rival and kind."""
    inexact: list[str] = field(default_factory=list)
    """Where a rival counted something else than what was called."""

    def added(self, kind: str, rival: str) -> list[float]:
        """What the rival added to the same round's calls with nothing attached."""
        pairs = zip(self.rounds[rival][kind], self.rounds[NOTHING][kind], strict=True)
        return [with_it - without for with_it, without in pairs]

    def ratio(self, kind: str, rival: str, other: str) -> float:
        """What one added by what the other did: of the medians, since a single round's may be next to nothing."""
        return statistics.median(self.added(kind, rival)) / statistics.median(self.added(kind, other))


def measure(generator: Generator, rivals: Mapping[str, Rival], *, rounds: int) -> Costs:
    """Attach each rival in turn, and make calls of every kind."""
    costs = Costs({name: {kind: [] for kind in KINDS} for name in rivals})
    names = list(rivals)
    for number in range(rounds):
        for name in names:
            began_s = time.monotonic()
            _measure_one(generator, name, rivals[name], costs)
            sys.stderr.write(f"round {number + 1}, {name}: {time.monotonic() - began_s:.0f} s\n")
        names = names[1:] + names[:1] if number % 2 else names[::-1]
    return costs


def _measure_one(generator: Generator, name: str, rival: Rival, costs: Costs) -> None:
    made = dict.fromkeys(Transport, 0)
    with rival() as attached:
        for kind, transport in KINDS.items():
            before_ns = _cpu_ns(attached.process)
            done = generator.run(kind, milliseconds=SLICE_MS[kind])
            own_ns = (_cpu_ns(attached.process) - before_ns) / done.calls
            once = attached.connected if kind == CONNECTED else None
            made[transport] += done.calls if once is None else once
            costs.rounds[name][kind].append(done.fastest_ns + own_ns)
        found = attached.counted()
    if found and found != made:
        costs.inexact.append(f"{name} counted {found} of {made}")


def _cpu_ns(process: int | None) -> int:
    if process is None:
        return 0
    tasks = Path("/proc", str(process), "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
