"""What an operator may tune about a capture."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and policies, fixed while the capture is open."""

    max_entries: int = 16384
    """Destinations the kernel's table holds."""
    max_connections: int = 32768
    """Room for attempts and open connections that are followed; ended ones take up a quarter of it at most."""
    max_peers: int = 4096
    """Connected UDP sockets that are known at a time."""
    patience_ms: int = 1000
    """An attempt that its caller gives up after waiting this long has timed out; earlier it is cancelled."""
    talk_ms: int = 100
    """A connected UDP socket that lasts this long was made to send; one that ends earlier, and has received nothing,
    may have served the C library to sort addresses, and does not count."""
    keep_loopback: bool = False
    """Whether a machine's calls to itself count."""
