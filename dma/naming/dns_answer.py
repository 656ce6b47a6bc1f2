"""What an answer of a name server says: under which name an address was asked for."""

import re
from typing import NamedTuple

from dma.flow import Address

TTL_LIMIT_S = 86_400
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", re.ASCII)


class DnsError(Exception):
    """The message is no answer that says anything of names."""


class Binding(NamedTuple):
    """An application asked for ``name``, and learned that it is at ``address``."""

    name: str
    address: Address
    port: int | None
    """From an SRV record; None means any."""
    ttl_s: int


class Service(NamedTuple):
    """An application asked for ``name``, and learned of a host and a port whose address it has to ask for next."""

    name: str
    host: str
    port: int
    ttl_s: int


class Answer(NamedTuple):
    """All that one message says."""

    name: str
    """That was asked for: the head of a chain of aliases."""
    bindings: tuple[Binding, ...]
    services: tuple[Service, ...]


def is_host_name(text: str) -> bool:
    """Whether a host can be called so, in lower case; an IPv4 address is no name."""
    return _HOST_NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()
