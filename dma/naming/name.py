"""What a naming method says about a destination."""

import enum
from typing import NamedTuple


class Source(enum.Enum):
    """Who says so."""

    HOSTS_FILE = "hosts file"
    REVERSE_DNS = "reverse dns"
    WELL_KNOWN_PORT = "well-known port"


class Name(NamedTuple):
    """One name with its provenance."""

    name: str
    source: Source
    confidence: int
    """1 to 100: how far to trust it."""
    expires_s: float | None = None
    """On the clock of ``time.monotonic``; None means that it does not."""
