"""Where services are, as registries write it."""

from ipaddress import IPv6Address, ip_address

from dma.naming.method import Place

PORTS = 0xFFFF


def placed(address: str, port: int | None = None) -> Place | None:
    """A place, of the whole address without a port or with port 0; None for host names and whatever else is none.

    IPv6 addresses that stand for IPv4 ones become these, as the kernel's tables have them.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if port is not None and not 0 <= port <= PORTS:
        return None
    return Place(found, port or None)


def read_place(text: str) -> Place | None:
    """A place as it is written in one piece: ``198.18.0.2:80``, ``[fd00::2]:80``, or an address alone."""
    host, colon, port = text.strip().rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.startswith("[")):
        return placed(host.removeprefix("[").removesuffix("]"), int(port[:6]))
    return placed(text.strip().removeprefix("[").removesuffix("]"))
