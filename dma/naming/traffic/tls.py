"""The server name in a TLS hello (RFC 8446, RFC 6066)."""

from collections.abc import Iterator

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_RECORD_BYTES = 5


class _CutShortError(Exception):
    pass


class _Reader:
    """Takes one field after another; what is not there raises."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise _CutShortError
        self._at += count
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def vector(self, count: int) -> bytes:
        """What follows its own length, of so many bytes; cut short with the data, not refused."""
        length = self.number(count)
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken


def is_hello(data: bytes) -> bool:
    """Whether a client begins to speak TLS."""
    return len(data) > _RECORD_BYTES and data[0] == _HANDSHAKE and data[1] == 3 and data[5] == _CLIENT_HELLO


def server_name(data: bytes) -> str | None:
    """The host that a client's hello names; None when it names none, or not as far as the bytes go."""
    if not is_hello(data):
        return None
    try:
        hello = _Reader(data[_RECORD_BYTES:])
        hello.take(1 + 3 + 2 + 32)  # type, length, version, random
        hello.vector(1)  # session
        hello.vector(2)  # cipher suites
        hello.vector(1)  # compression
        for kind, body in _extensions(_Reader(hello.vector(2))):
            if kind == _SERVER_NAME:
                return _host_in(_Reader(_Reader(body).vector(2)))
    except _CutShortError:
        pass
    return None


def _extensions(extensions: _Reader) -> Iterator[tuple[int, bytes]]:
    while extensions.more:
        yield extensions.number(2), extensions.vector(2)


def _host_in(names: _Reader) -> str | None:
    while names.more:
        kind, length = names.number(1), names.number(2)
        name = names.take(length)
        if kind == _HOST_NAME:
            return name.decode("ascii", errors="replace")
    return None
