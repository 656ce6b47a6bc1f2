"""What judging costs in large stacks: run as ``python -m tests.bench.graph``.

One update is one edge's report, taken in from the wire's message, and the look that follows it. Beside it stands what
one would do without states that are kept: build the graph with networkx and compare it with the image at each report.
"""

import gc
import itertools
import json
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click
import networkx as nx

from dm import wire
from dm.golden import GoldenImage
from dm.policy import Policy
from dm.stack import Spec, Stack
from dm.v1 import agent_pb2, flow_pb2
from dm.verdict import Verdict
from tests.bench.blame import figure

RESULT = Path("build/bench/graph.json")
SMALL, MIDDLE, LARGE = 1_000, 100_000, 1_000_000
EDGES_OF_VCD = 10
UPDATES = 2_000
REBUILDS = 3
LOOKS = 1_000
CRASH_ROUNDS = 5
HUB = 1_000
BLAME_S = 0.1
BEGIN_S = 1_000.0
PORT = 8080


class Crowd:
    """A stack of equal VCDs, each of which calls some others; ``hub``: how many of them call number 0 as well."""

    def __init__(self, edges: int, *, hub: int = 0) -> None:
        self.choose = random.Random(edges)
        count = max(2 * EDGES_OF_VCD, edges // EDGES_OF_VCD)
        self.names = [f"vcd-{number:06}" for number in range(count)]
        self.addresses = {
            name: IPv4Address(int(IPv4Address("10.0.0.0")) + n) for n, name in enumerate(self.names)
        }
        self.targets = {name: self._targets(n, edges // count) for n, name in enumerate(self.names)}
        for name in self.names[1 : hub + 1]:
            self.targets[name] = list(dict.fromkeys((*self.targets[name], self.names[0])))
        self.attempts = 1
        self.news: deque[tuple[str, agent_pb2.Edges]] = deque()
        self.now_s = BEGIN_S
        declared = {name: (address,) for name, address in self.addresses.items()}
        spec = Spec("crowd", "f", declared, Policy(), "launch", BEGIN_S - 1.0)
        self.stack = Stack(spec, generations={}, now_s=BEGIN_S)
        for name in self.names:
            vcd = self.stack.vcds[name]
            self.stack.hello(vcd, session="s", probes=(), now_s=self.now_s)
            self.report(name, [self.edge(target) for target in self.targets[name]], complete=True)
        self.stack.use_image(self._image(), now_s=self.now_s)

    def edge(self, target: str, *, refused: int = 0) -> flow_pb2.Edge:
        """One open connection to a target, after some that were refused."""
        edge = flow_pb2.Edge(
            transport=flow_pb2.TRANSPORT_TCP,
            address=self.addresses[target].packed,
            port=PORT,
            command="program",
            attempts=self.attempts,
            established=0 if refused else self.attempts,
            open=0 if refused else 1,
            last_established_age_ms=10,
        )
        if refused:
            edge.failures.add(kind=flow_pb2.FAILURE_KIND_REFUSED, count=refused)
            edge.last_failure_age_ms = 5
        return edge

    def report(self, name: str, edges: list[flow_pb2.Edge], *, complete: bool = False) -> None:
        """One agent tells of some of its edges."""
        self.take(name, agent_pb2.Edges(generation=1, complete=complete, edges=edges))

    def take(self, name: str, message: agent_pb2.Edges) -> None:
        """The manager takes in one agent's message."""
        flows = wire.flows(message, source=name, now_s=self.now_s)
        self.stack.edges(self.stack.vcds[name], flows, complete=message.complete, now_s=self.now_s)

    def prepare(self, updates: int) -> None:
        """Write the messages of that many updates, which is no work of the manager's."""
        for source in self.choose.choices(self.names, k=updates):
            self.attempts += 1
            edge = self.edge(self.choose.choice(self.targets[source]))
            self.news.append((source, agent_pb2.Edges(generation=1, edges=[edge])))

    def update(self) -> None:
        """One edge of one VCD changed, and has been prepared; the manager takes it in, and looks."""
        self.take(*self.news.popleft())
        self.stack.judge(now_s=self.now_s)

    def look(self) -> None:
        """A look at a stack of which there is nothing new."""
        self.stack.judge(now_s=self.now_s)

    def wait(self, seconds: float) -> None:
        """Time passes; every agent is still there."""
        self.now_s += seconds
        for vcd in self.stack.vcds.values():
            self.stack.heard(vcd, now_s=self.now_s)

    def rebuild(self) -> None:
        """The same by other means: the whole graph is built anew and compared with the image."""
        live: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        golden: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        for edge in self.stack.graph:
            if edge.open:
                live.add_edge(edge.key.source, edge.key.target, key=edge.key[2:])
        assert self.stack.image is not None
        for expected in self.stack.image.edges:
            golden.add_edge(expected.source, expected.target, key=expected.key[2:])
        missing = set(golden.edges(keys=True)) - set(live.edges(keys=True))
        assert len(missing) <= len(self.names)

    def crash(self, name: str, *, refused: int) -> None:
        """All that call a VCD have been refused so often by now."""
        for caller in self.names:
            if name in self.targets[caller]:
                self.report(caller, [self.edge(name, refused=refused)])

    def _targets(self, number: int, count: int) -> list[str]:
        """Mostly others nearby, as services of one team; never itself."""
        steps = self.choose.sample(range(1, 2 * EDGES_OF_VCD), count)
        return [self.names[(number + step) % len(self.names)] for step in steps]

    def _image(self) -> GoldenImage:
        return self.stack.learn(smoke=True)


def median_s(act: Callable[[], object], *, times: int) -> float:
    """The median duration."""
    return statistics.median(durations(act, times=times))


def durations(act: Callable[[], object], *, times: int) -> Iterator[float]:
    """How long it takes, again and again."""
    for _ in range(times):
        begin_s = time.perf_counter()
        act()
        yield time.perf_counter() - begin_s


def interleaved_s(small: Crowd, large: Crowd) -> tuple[float, float]:
    """Medians of an update of both, taken in turn: whatever else the machine does touches both alike."""
    for crowd in (small, large):
        crowd.prepare(UPDATES)
    pairs = zip(durations(small.update, times=UPDATES), durations(large.update, times=UPDATES), strict=True)
    ones, others = zip(*pairs, strict=True)
    return statistics.median(ones), statistics.median(others)


def blame_s(crowd: Crowd, victims: list[str]) -> tuple[int, float]:
    """Refused connections to these: how many edges deviate, and the median duration of the looks that blame."""
    for times in (3, 6):
        for victim in victims:
            crowd.crash(victim, refused=times)
        crowd.look()
        crowd.wait(crowd.stack.spec.policy.confirm_s)
    judgement = crowd.stack.judge(now_s=crowd.now_s)
    assert judgement.verdict is Verdict.FAILED, judgement.reasons[:3]
    assert {suspect.name for suspect in judgement.finding.culprits} == set(victims)
    return crowd.stack.wrong, median_s(crowd.look, times=CRASH_ROUNDS)


def us(seconds: float) -> float:
    """Microseconds."""
    return round(seconds * 1e6, 1)


def main() -> None:
    """Measure, print a table, write the result; the status tells whether all goals hold."""
    rows = []
    for row in itertools.chain(updates(), blames()):
        rows.append(row)
        other = "" if row["other"] is None else f"{row['other']:>12} {row['other_name']}"
        held = "ok" if row["holds"] else "MISSED"
        click.echo(f"{row['name']:<66} {row['ours']:>9} {row['goal']:>8} {held}{other}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"figures": rows}, indent=2) + "\n")
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


def updates() -> Iterator[dict[str, Any]]:
    """One update in a small stack and in larger ones."""
    small = Crowd(SMALL)
    beside = {SMALL: us(median_s(small.rebuild, times=UPDATES // 10))}
    for size in (MIDDLE, LARGE):
        # Millions of objects that all stay: looking through them again and again would take most of the time.
        gc.disable()
        large = Crowd(size)
        gc.enable()
        gc.collect()
        update = interleaved_s(small, large)
        if size == MIDDLE:
            beside[size] = us(median_s(large.rebuild, times=REBUILDS))
            name = "networkx, built and compared anew"
            yield figure(f"µs an update, {SMALL} edges", us(update[0]), beside[SMALL], name, "", holds=True)
            yield figure(f"µs an update, {size} edges", us(update[1]), beside[size], name, "", holds=True)
            continue
        ratio = update[1] / update[0]
        yield figure(f"µs an update, {size} edges", us(update[1]), None, "", "", holds=True)
        name = f"an update at {size} edges, times one at {SMALL}"
        yield figure(name, round(ratio, 2), None, "", "<= 2", holds=ratio <= 2)
        look_s = median_s(large.look, times=LOOKS)
        yield figure(f"µs a look without news, {size} edges", us(look_s), None, "", "", holds=True)


def blames() -> Iterator[dict[str, Any]]:
    """Blame in a stack of 10,000 VCDs and 100,000 edges."""
    for what, first, count in (("one VCD", 5_000, 1), ("ten VCDs at once", 5_000, 10), ("a hub", 0, 1)):
        crowd = Crowd(MIDDLE, hub=HUB)
        victims = crowd.names[first :: 3 * EDGES_OF_VCD][:count]
        wrong, seconds = blame_s(crowd, victims)
        name = f"ms to blame {what} for {wrong} edges, {len(crowd.names)} VCDs, {MIDDLE} edges"
        yield figure(name, round(seconds * 1e3, 2), None, "", "<= 100", holds=seconds <= BLAME_S)


if __name__ == "__main__":
    main()
