"""Destinations to look up."""

from ipaddress import ip_address

from dma.flow import Address, Destination, Transport

DATABASE = ip_address("198.18.0.5")


def calling(address: Address = DATABASE, *, port: int = 5432) -> Destination:
    """A call of a web server's."""
    return Destination(Transport.TCP, address, port, "web")
