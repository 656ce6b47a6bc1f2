"""What a naming method says about a destination."""

import enum
from typing import NamedTuple


class Source(enum.Enum):
    """Who says so."""

    REGISTRY = "registry"
    CONSUL = "consul"
    ETCD = "etcd"
    PASSIVE_DNS = "passive dns"
    HOSTS_FILE = "hosts file"
    RESOLV_CONF = "resolver configuration"
    TLS_SNI = "tls server name"
    HTTP_HOST = "http host"
    REVERSE_DNS = "reverse dns"
    GREETING = "greeting"
    WELL_KNOWN_PORT = "well-known port"
    PROCESS = "process"


# What an operator has written down goes first, then what the application itself asked for, then what somebody else
# calls the address; the last three tell of a kind of service only.
CONFIDENCE = {
    Source.REGISTRY: 98,
    Source.CONSUL: 96,
    Source.ETCD: 95,
    Source.PASSIVE_DNS: 92,
    Source.HOSTS_FILE: 90,
    Source.RESOLV_CONF: 80,
    Source.TLS_SNI: 75,
    Source.HTTP_HOST: 70,
    Source.REVERSE_DNS: 60,
    Source.GREETING: 30,
    Source.WELL_KNOWN_PORT: 20,
    Source.PROCESS: 10,
}
REGISTRIES = frozenset({Source.REGISTRY, Source.CONSUL, Source.ETCD})
HINTS = frozenset({Source.GREETING, Source.WELL_KNOWN_PORT, Source.PROCESS})
"""These name a kind of service, never one machine."""


class Name(NamedTuple):
    """One name with its provenance."""

    name: str
    source: Source
    confidence: int
    """1 to 100: how far to trust it."""
    expires_s: float | None = None
    """On the clock of ``time.monotonic``; None means that it does not."""
    at_port: bool = False
    """Whether a registry has it for the port, and not for all of the address."""

    @property
    def rank(self) -> tuple[int, str, str]:
        """Sorts the most trusted first, and the same names in the same order on every launch."""
        return -self.confidence, self.source.value, self.name
