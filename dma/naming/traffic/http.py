"""The host in a request of HTTP/1 (RFC 9112)."""

import re

_REQUEST = re.compile(rb"[A-Z]{3,10} [^ \r\n]{1,2000} HTTP/1\.[01]\r\n")
_HOST = re.compile(rb"\r\n[Hh][Oo][Ss][Tt]:[ \t]*([^ \t\r\n]{1,300})[ \t]*\r\n")


def is_request(data: bytes) -> bool:
    """Whether a client begins to speak HTTP/1."""
    return _REQUEST.match(data) is not None


def host(data: bytes) -> str | None:
    """The host that a request names, without its port; None when there is none, or not as far as the bytes go."""
    if not is_request(data):
        return None
    found = _HOST.search(data.partition(b"\r\n\r\n")[0] + b"\r\n")
    return found[1].decode("ascii", errors="replace").partition(":")[0] if found else None
