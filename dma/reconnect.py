"""Frees the callers of a machine that was taken back: their connections to it are dead, but nobody told them."""

from collections.abc import Collection

from dma.flow import Address
from dma.netlink import Netlink
from dma.sockets import NETLINK_SOCK_DIAG, destroy, unanswered

ALIVE_MS = 200
"""Who has acknowledged something so lately runs now: no machine is taken back within that time."""


def destroy_connections(addresses: Collection[Address]) -> int:
    """Destroy this namespace's dead TCP connections to ``addresses``, in either direction; returns how many there were.

    A connection made since, before this was asked for, is spared: its other end answers, and nobody expects it to end.
    Who holds one sees it aborted at once, instead of waiting for a time-out. Raises ``NetlinkError``.
    """
    doomed = [one for one, silent_ms in unanswered() if one.address in addresses and silent_ms >= ALIVE_MS]
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        return sum(destroy(netlink, connection) for connection in doomed)
