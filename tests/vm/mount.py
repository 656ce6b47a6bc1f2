"""Runs inside a guest: has the kernel itself call a place, to mount it by NFS, and prints what is counted of that.

mount.py OWN_ADDRESS HOST PORT PLAN...

Nothing has to answer there: the call is what counts, and the mount fails.
"""

import ctypes
import json
import sys
import time
from collections.abc import Iterable

from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Flow

ENDED_S, LOOK_S = 10.0, 0.05
LIBC = ctypes.CDLL(None, use_errno=True)
# One repetition after half a second, then the kernel gives up.
OPTIONS = "vers=4.0,proto=tcp,soft,timeo=5,retrans=1,addr={host},clientaddr={own},port={port}"


def mount(own: str, host: str, port: str) -> int:
    """Try to mount what HOST might export; the errno."""
    options = OPTIONS.format(host=host, own=own, port=port).encode()
    failed = LIBC.mount(f"{host}:/".encode(), b"/mnt", b"nfs4", 0, options)
    return ctypes.get_errno() if failed else 0


def to(host: str, flows: Iterable[Flow]) -> list[Flow]:
    """Those to one address."""
    return [flow for flow in flows if str(flow.destination.address) == host]


def unsettled(flows: Iterable[Flow]) -> bool:
    """Whether any is still under way."""
    return any(flow.open or flow.pending for flow in flows)


def told(flow: Flow) -> dict[str, object]:
    """What a test compares."""
    return {
        "command": flow.destination.command,
        "attempts": flow.attempts,
        "established": flow.established,
        "unsettled": flow.open + flow.pending,
    }


def count(plan: str, own: str, host: str, port: str) -> dict[str, object]:
    """What one plan counts of one mount, once its connection has ended."""
    with open_capture(Target(), plan=plan, settings=Settings()) as capture:
        error = mount(own, host, port)
        deadline = time.monotonic() + ENDED_S
        # A thread of the kernel's closes the connection, whenever it gets to it.
        while unsettled(flows := to(host, capture.flows())) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
    return {"errno": error, "flows": [told(flow) for flow in flows]}


if __name__ == "__main__":
    place, plans = sys.argv[1:4], sys.argv[4:]
    print(json.dumps({plan: count(plan, *place) for plan in plans}))  # noqa: T201 it is a program
