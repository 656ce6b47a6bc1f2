"""Runs inside a guest: has the kernel itself call a place, to mount it by NFS, and prints what is counted of that.

mount.py OWN_ADDRESS HOST PORT PLAN...

Nothing has to answer there: the call is what counts, and the mount fails.
"""

import ctypes
import json
import sys

from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Flow

LIBC = ctypes.CDLL(None, use_errno=True)
# One repetition after half a second, then the kernel gives up.
OPTIONS = "vers=4.0,proto=tcp,soft,timeo=5,retrans=1,addr={host},clientaddr={own},port={port}"


def mount(own: str, host: str, port: str) -> int:
    """Try to mount what HOST might export; the errno."""
    options = OPTIONS.format(host=host, own=own, port=port).encode()
    failed = LIBC.mount(f"{host}:/".encode(), b"/mnt", b"nfs4", 0, options)
    return ctypes.get_errno() if failed else 0


def told(flow: Flow) -> dict[str, object]:
    """What a test compares."""
    return {
        "command": flow.destination.command,
        "attempts": flow.attempts,
        "established": flow.established,
        "unsettled": flow.open + flow.pending,
    }


def count(plan: str, own: str, host: str, port: str) -> dict[str, object]:
    """What one plan counts of one mount."""
    with open_capture(Target(), plan=plan, settings=Settings()) as capture:
        error = mount(own, host, port)
        flows = [told(flow) for flow in capture.flows() if str(flow.destination.address) == host]
    return {"errno": error, "flows": flows}


if __name__ == "__main__":
    place, plans = sys.argv[1:4], sys.argv[4:]
    print(json.dumps({plan: count(plan, *place) for plan in plans}))  # noqa: T201 it is a program
