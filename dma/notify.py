"""Tells a service manager how far the start is (sd_notify(3)): systemd, or whoever else started the agent."""

import os
import socket

from dma.logs import log


def notify(state: str) -> None:
    """Send ``READY=1`` and the like to ``$NOTIFY_SOCKET``; without one, nobody waits."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(state.encode(), address)
    except OSError as e:
        log.warning("service manager not notified", state=state, socket=path, reason=str(e))
