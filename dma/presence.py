"""Where the watched machine can be reached: its addresses and listening ports."""

import socket
import struct
from ipaddress import ip_address
from typing import NamedTuple

from dma import sockets
from dma.flow import Address
from dma.netlink import Netlink, attributes
from dma.sockets import Listener

# linux/rtnetlink.h and linux/if_addr.h
NETLINK_ROUTE = 0
RTM_GETADDR = 22
IFADDRMSG = struct.Struct("=BBBBI")
IFA_ADDRESS, IFA_LOCAL = 1, 2


class Presence(NamedTuple):
    """Addresses and listeners, in a stable order."""

    addresses: tuple[Address, ...] = ()
    listeners: tuple[Listener, ...] = ()


def addresses() -> tuple[Address, ...]:
    """This network namespace's addresses, without loopback and link-local ones; raises ``NetlinkError``."""
    found: set[Address] = set()
    with Netlink(NETLINK_ROUTE) as netlink:
        for message in netlink.dump(RTM_GETADDR, IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            values = dict(attributes(message[IFADDRMSG.size :]))
            # On a point-to-point link IFA_ADDRESS is the peer's, and only IFA_LOCAL is our own.
            address = ip_address(values.get(IFA_LOCAL) or values[IFA_ADDRESS])
            if not (address.is_loopback or address.is_link_local):
                found.add(address)
    return tuple(sorted(found, key=_order))


def listeners() -> tuple[Listener, ...]:
    """What this machine offers to others; raises ``NetlinkError``."""
    offered = (one for one in sockets.listeners() if not one.address.is_loopback)
    return tuple(sorted(offered, key=lambda one: (one.transport.value, one.port, _order(one.address))))


def _order(address: Address) -> tuple[int, bytes]:
    return address.version, address.packed
