"""The exchange format between agents and managers of any make: ``[{"service": …, "ip": …, "port": …}, …]``."""

from collections.abc import Iterable

import msgspec

from dma.flow import Address


class Dependency(msgspec.Struct, frozen=True, order=True):
    """One service that is depended on; ``ip`` in its usual notation, IPv4-mapped addresses as IPv4."""

    service: str
    ip: str
    port: int


def dependency(service: str, address: Address, port: int) -> Dependency:
    """An element of the format."""
    return Dependency(service, str(address), port)


def encode(dependencies: Iterable[Dependency]) -> str:
    """One array on one line, each dependency once, in a stable order."""
    return msgspec.json.encode(sorted(set(dependencies))).decode()
