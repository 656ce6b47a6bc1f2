"""Frees the callers of a machine that was taken back: their connections to it are dead, but nobody told them."""

from collections.abc import Collection

from dma.flow import Address
from dma.netlink import Netlink
from dma.sockets import NETLINK_SOCK_DIAG, connections, destroy


def destroy_connections(addresses: Collection[Address]) -> int:
    """Destroy this namespace's TCP connections to ``addresses``, in either direction; returns how many there were.

    Who holds one sees it aborted at once, instead of waiting for a time-out. Raises ``NetlinkError``.
    """
    doomed = [connection for connection in connections() if connection.address in addresses]
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        return sum(destroy(netlink, connection) for connection in doomed)
