"""All the calls that the machine's cores can make, and whether the capture counts each of them."""

import os
from collections import Counter
from contextlib import ExitStack
from typing import NamedTuple

from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Flow, Loss, Transport
from tests.bench.capture.load import DESTINATIONS, PORT, Lab

SHARES = {"tcp": 0.7, "udp": 0.3}
"""Of the time; TCP is what has outcomes."""


class Flood(NamedTuple):
    """What a flood was, and what the capture made of it."""

    calls_per_s: float
    connects_per_s: float
    miscounted: int
    """Calls, outcomes and open connections that are not there, or that never were."""
    missing_edges: int
    lost: int


def flood(lab: Lab, *, plan: str, seconds: float) -> Flood:
    """Call from all cores at once, first by TCP, then by UDP."""
    ports = [PORT + cpu for cpu in sorted(os.sched_getaffinity(0))]
    with open_capture(Target(netns=lab.inside.path), plan=plan) as capture:
        made = {kind: _all_cores(lab, kind, ports, seconds * share) for kind, share in SHARES.items()}
        flows, losses = capture.flows(), capture.losses()
    tcp, udp = ([flow for flow in flows if flow.destination.transport is kind] for kind in Transport)
    return Flood(
        calls_per_s=sum(made.values()) / seconds,
        connects_per_s=made["tcp"] / seconds / SHARES["tcp"],
        miscounted=_tcp_errors(tcp, made["tcp"]) + abs(sum(flow.attempts for flow in udp) - made["udp"]),
        missing_edges=len(SHARES) * len(ports) * DESTINATIONS - len(flows),
        lost=sum(losses.values()),
    )


def overflow(lab: Lab, *, plan: str, milliseconds: int = 1000) -> int:
    """Calls of more destinations than there is room for that are neither counted nor counted as lost."""
    settings = Settings(max_entries=DESTINATIONS // 2)
    with open_capture(Target(netns=lab.inside.path), plan=plan, settings=settings) as capture:
        with lab.generator() as generator:
            made = sum(generator.run(kind, milliseconds=milliseconds).calls for kind in SHARES)
        counted = sum(flow.attempts for flow in capture.flows())
        return abs(made - counted - capture.losses().get(Loss.MAP_FULL, 0))


def _all_cores(lab: Lab, kind: str, ports: list[int], seconds: float) -> int:
    with ExitStack() as stack:
        generators = [stack.enter_context(lab.generator(cpu=port - PORT, port=port)) for port in ports]
        for generator in generators:
            generator.start(kind, milliseconds=round(seconds * 1000))
        return sum(generator.finish().calls for generator in generators)


def _tcp_errors(flows: list[Flow], made: int) -> int:
    totals = Counter[str]()
    for flow in flows:
        totals.update(attempts=flow.attempts, established=flow.established)
        totals.update(left=flow.open + flow.pending + flow.cancelled + sum(flow.failures.values()))
    return abs(totals["attempts"] - made) + abs(totals["established"] - made) + totals["left"]
