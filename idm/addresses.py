"""The addresses of a stack, as its manifest gives them or leaves them to be given. Pure."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network


class AddressError(Exception):
    """An address or a subnet cannot be used; the message names the place and what to write there."""


def assign(network: str, wanted: Mapping[str, str]) -> dict[str, IPv4Address]:
    """The address of every VCD of a network; who wants none gets the lowest that is free, in the order of the names.

    Raises :class:`AddressError`.
    """
    subnet = _subnet(network)
    gateway = subnet.network_address + 1
    taken = {gateway: "the network's gateway"}
    given = {}
    for name, text in wanted.items():
        if text:
            place = f"vcd.{name}.address"
            address = parse_address(text, place=place)
            if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
                raise AddressError(f"{place}: {address} is no host of {subnet}: choose from {gateway + 1} on")
            if address in taken:
                raise AddressError(
                    f"{place}: {address} is taken by {taken[address]}: choose another or leave it out"
                )
            taken[address] = f"vcd.{name}"
            given[name] = address
    free = (address for address in subnet.hosts() if address not in taken)
    for name in wanted:
        if name not in given:
            try:
                given[name] = next(free)
            except StopIteration:
                raise AddressError(
                    f"network.subnet: {subnet} is too small for {len(wanted)} VCDs: choose a shorter prefix"
                ) from None
    return given


def _subnet(text: str) -> IPv4Network:
    place = "network.subnet"
    try:
        subnet = ip_network(text)
    except ValueError as e:
        raise AddressError(f'{place}: {e}: write, for example, "198.18.10.0/24"') from e
    if not isinstance(subnet, IPv4Network) or subnet.prefixlen > 29:
        raise AddressError(
            f'{place}: {subnet} is not IPv4 or smaller than /29: write, for example, "198.18.10.0/24"'
        )
    return subnet


def parse_address(text: str, *, place: str) -> IPv4Address:
    """An address of the manifest. Raises :class:`AddressError`, which names its ``place``."""
    try:
        address = ip_address(text)
    except ValueError as e:
        raise AddressError(f'{place}: "{text}" is no address: write, for example, "198.18.10.11"') from e
    if not isinstance(address, IPv4Address):
        raise AddressError(f'{place}: {address} is not IPv4: write, for example, "198.18.10.11"')
    return address
