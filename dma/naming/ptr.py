"""Just enough of DNS (RFC 1035) for reverse look-ups: a PTR question, and the names in its answer."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dma.flow import Address

HEADER = struct.Struct("!6H")  # identifier, flags, questions, answers, authorities, additionals
RECORD = struct.Struct("!HHIH")  # type, class, seconds to live, length of the data
QUESTION = struct.Struct("!HH")

PTR, IN = 12, 1
RECURSION_DESIRED, RESPONSE = 0x0100, 0x8000
NO_ERROR, NO_SUCH_NAME = 0, 3

_POINTER = 0xC0
_MAX_POINTERS = 16
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,253}[a-z0-9_])?", re.ASCII)


class PtrError(Exception):
    """The message is no answer to the question."""


class Answer(NamedTuple):
    """Names of an address, none when it has none, and for how long that holds."""

    names: tuple[str, ...]
    ttl_s: int


def question(identifier: int, address: Address) -> bytes:
    """Asks for the names of an address, with recursion."""
    labels = b"".join(bytes((len(label),)) + label for label in address.reverse_pointer.encode().split(b"."))
    return HEADER.pack(identifier, RECURSION_DESIRED, 1, 0, 0, 0) + labels + b"\0" + QUESTION.pack(PTR, IN)


def answer(message: bytes, identifier: int) -> Answer:
    """Read the reply to a question; raises :class:`PtrError` for anything that is none, or that tells of a failure."""
    try:
        return _answer(message, identifier)
    except (struct.error, IndexError) as e:
        raise PtrError("the message is cut short") from e


def _answer(message: bytes, identifier: int) -> Answer:
    got, flags, questions, answers, _authorities, _additionals = HEADER.unpack_from(message)
    if got != identifier or not flags & RESPONSE:
        raise PtrError("the message answers another question")
    code = flags & 0xF
    if code == NO_SUCH_NAME:
        return Answer((), 0)
    if code != NO_ERROR:
        raise PtrError(f"the server failed with code {code}")
    at = HEADER.size
    for _ in range(questions):
        at = _skip_name(message, at) + QUESTION.size
    names: list[str] = []
    ttl_s = 0
    for ttl, data_at in _pointers(message, at, answers):
        name = _name(message, data_at).lower()
        if _HOST_NAME.fullmatch(name):
            ttl_s = min(ttl, ttl_s) if names else ttl
            names.append(name)
    return Answer(tuple(dict.fromkeys(names)), ttl_s)


def _pointers(message: bytes, at: int, count: int) -> Iterator[tuple[int, int]]:
    """Seconds to live and place of the data of each PTR record; a CNAME among them only leads there."""
    for _ in range(count):
        at = _skip_name(message, at)
        kind, klass, ttl, length = RECORD.unpack_from(message, at)
        at += RECORD.size
        if kind == PTR and klass == IN:
            yield ttl, at
        at += length


def _skip_name(message: bytes, at: int) -> int:
    while length := message[at]:
        if length & _POINTER:
            return at + 2
        at += 1 + length
    return at + 1


def _name(message: bytes, at: int) -> str:
    """The name at a place, its compression pointers followed; one that runs in circles raises."""
    labels = []
    for _ in range(_MAX_POINTERS):
        while (length := message[at]) and not length & _POINTER:
            labels.append(message[at + 1 : at + 1 + length])
            at += 1 + length
        if not length:
            return b".".join(labels).decode("ascii", errors="replace")
        at = (length & ~_POINTER) << 8 | message[at + 1]
    raise PtrError("the message points in circles")
