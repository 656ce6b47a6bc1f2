"""Runs inside a guest: a known workload, and what the agent counts of it; prints one JSON object.

    workload.py PLAN HOST    or only the workload:    workload.py HOST

The ports are those of the capture tests.
"""

import json
import socket
import subprocess
import sys

from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Flow

OPEN_PORTS = (7101, 7102, 7103)
CONNECTS = {7101: 6, 7102: 5, 7103: 5, 7104: 4, 7105: 3}
DATAGRAMS = {7201: 8, 7202: 3}


def call(host: str) -> None:
    """Make 23 connections and send 11 datagrams."""
    for port, times in CONNECTS.items():
        for _ in range(times):
            with socket.socket() as connecting:
                connecting.settimeout(10)
                connecting.connect_ex((host, port))
    for port, times in DATAGRAMS.items():
        for _ in range(times):
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", (host, port))


def told(flow: Flow) -> dict[str, object]:
    """What a test compares."""
    return {
        "transport": flow.destination.transport.name,
        "address": str(flow.destination.address),
        "port": flow.destination.port,
        "attempts": flow.attempts,
        "established": flow.established,
        "failures": {kind.value: times for kind, times in flow.failures.items()},
        "unsettled": flow.open + flow.pending + flow.cancelled,
    }


def count(plan: str, host: str) -> None:
    """Count the workload by a plan."""
    with open_capture(Target(), plan=plan, settings=Settings()) as capture:
        # The agent does not count its own traffic, so another process makes it.
        subprocess.run([sys.executable, __file__, host], check=True, timeout=60)
        capture.drain()
        flows = [told(flow) for flow in capture.flows()]
        losses = {loss.value: times for loss, times in capture.losses().items()}
    print(json.dumps({"flows": flows, "losses": losses}))  # noqa: T201 it is a program


if __name__ == "__main__":
    (call if len(sys.argv) == 2 else count)(*sys.argv[1:])
