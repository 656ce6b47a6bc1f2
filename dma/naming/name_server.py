"""A name server, and what it says of an address."""

from typing import NamedTuple

from dma.flow import Address


class Server(NamedTuple):
    """A name server."""

    address: Address
    port: int


class ReverseError(Exception):
    """A name server has no answer: it is silent, refuses, or is none."""


class Answer(NamedTuple):
    """Names of an address, none when it has none, and for how long that holds."""

    names: tuple[str, ...]
    ttl_s: float
