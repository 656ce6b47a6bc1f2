"""Reverse look-ups on the wire."""

import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma.naming import ptr
from dma.naming.ptr import Answer, PtrError

QUESTION = ptr.question(7, ip_address("198.18.0.9"))
POINTER_TO_QUESTION = b"\xc0\x0c"


def reply(*records: bytes, code: int = 0, identifier: int = 7) -> bytes:
    """An answer to QUESTION."""
    header = struct.pack("!6H", identifier, 0x8180 | code, 1, len(records), 0, 0)
    return header + QUESTION[12:] + b"".join(records)


def record(data: bytes, *, ttl_s: int = 60, kind: int = 12) -> bytes:
    """One record of the answer."""
    return POINTER_TO_QUESTION + struct.pack("!HHIH", kind, 1, ttl_s, len(data)) + data


CIRCLE = reply(record(bytes((0xC0, len(reply(record(b"")))))))


def test_the_question_is_the_reverse_name() -> None:
    """IPv4 and IPv6 addresses are asked for by their names below in-addr.arpa and ip6.arpa."""
    assert b"\x019\x010\x0218\x03198\x07in-addr\x04arpa\0" in QUESTION
    assert b"\x03ip6\x04arpa\0" in ptr.question(7, ip_address("fd00::9"))


def test_names_and_the_shortest_life() -> None:
    """Every PTR record gives a name, in lower case and compressed or not; CNAMEs and strange names are skipped."""
    whole = b"\x02DB\x04test\0"
    compressed = b"\x03db2" + bytes((0xC0, len(reply(record(b""))) + len(b"\x02DB")))
    strange = b"\x05a b\x00c\0"
    message = reply(record(whole, ttl_s=90), record(compressed), record(b"\0", kind=5), record(strange))
    assert ptr.answer(message, 7) == Answer(("db.test", "db2.test"), 60)


def test_no_such_name_is_an_answer() -> None:
    """A server that knows no name has answered; one that failed has not."""
    assert ptr.answer(reply(code=3), 7) == Answer((), 0)
    with pytest.raises(PtrError, match="code 2"):
        ptr.answer(reply(code=2), 7)


@pytest.mark.parametrize(
    "message",
    [reply(identifier=8), QUESTION, reply()[:20], CIRCLE, b""],
    ids=["of another", "the question", "cut short", "in circles", "empty"],
)
def test_anything_else_is_refused(message: bytes) -> None:
    """A message that is no answer to the question is an error, and never waited on or followed for ever."""
    with pytest.raises(PtrError):
        ptr.answer(message, 7)


@given(st.binary(max_size=200))
def test_no_message_does_harm(noise: bytes) -> None:
    """Whatever a server sends is an answer or refused."""
    for message in (noise, reply()[:12] + noise, reply(record(noise))):
        with suppress(PtrError):
            assert all(len(name) <= 255 for name in ptr.answer(message, 7).names)
