"""Lets only the answers of name servers through a packet socket: classic BPF (linux/filter.h), run by the kernel.

Whatever a filter reads beyond a packet's end makes it refuse the packet.
"""

import struct
from collections.abc import Collection
from typing import NamedTuple

INSTRUCTION = struct.Struct("=HBBI")  # code, jump if true, jump if false, constant

_LOAD_WORD, _LOAD_BYTE, _LOAD_HALF_INDEXED, _LOAD_BYTE_INDEXED, _LOAD_HALF = 0x20, 0x30, 0x48, 0x50, 0x28
_INDEX_CONSTANT, _INDEX_HEADER_LENGTH, _INDEX_FROM_A = 0x01, 0xB1, 0x07
_ADD_INDEX, _AND, _SHIFT_LEFT, _SHIFT_RIGHT = 0x0C, 0x54, 0x64, 0x74
_IF_EQUAL, _IF_SET, _RETURN = 0x15, 0x45, 0x06

_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_PACKET_HOST = 0  # linux/if_packet.h: for this machine
_FRAGMENT_OFFSET = 0x1FFF
_IPV6_HEADER_BYTES, _UDP_HEADER_BYTES = 40, 8
_TCP, _UDP = 6, 17
_IS_ANSWER = 0x80  # in the third byte of a DNS message

PORTS_LIMIT = 16
PACKET_BYTES = 16_384
"""Of one packet; the rest is cut off."""


class _Step(NamedTuple):
    code: int
    constant: int = 0
    then: str = ""
    otherwise: str = ""
    label: str = ""


def answers_only(ports: Collection[int]) -> bytes:
    """The filter for packets, from their IP header on, that come in from one of at most ``PORTS_LIMIT`` ports."""
    return _assembled(
        [
            _Step(_LOAD_WORD, _PACKET_TYPE),
            _Step(_IF_EQUAL, _PACKET_HOST, otherwise="drop"),
            _Step(_LOAD_BYTE, 0),
            _Step(_SHIFT_RIGHT, 4),
            _Step(_IF_EQUAL, 6, then="ipv6"),
            _Step(_LOAD_HALF, 6),
            _Step(_IF_SET, _FRAGMENT_OFFSET, then="drop"),
            _Step(_INDEX_HEADER_LENGTH, 0),
            _Step(_LOAD_BYTE, 9),
            _Step(_IF_EQUAL, _UDP, then="udp", otherwise="tcp?"),
            _Step(_INDEX_CONSTANT, _IPV6_HEADER_BYTES, label="ipv6"),
            _Step(_LOAD_BYTE, 6),
            _Step(_IF_EQUAL, _UDP, then="udp"),
            _Step(_IF_EQUAL, _TCP, then="tcp", otherwise="drop", label="tcp?"),
            _Step(_LOAD_HALF_INDEXED, 0, label="udp"),
            *_one_of(ports, then="udp answer"),
            _Step(_LOAD_BYTE_INDEXED, _UDP_HEADER_BYTES + 2, label="udp answer"),
            _Step(_IF_SET, _IS_ANSWER, then="take", otherwise="drop"),
            _Step(_LOAD_HALF_INDEXED, 0, label="tcp"),
            *_one_of(ports, then="tcp answer"),
            _Step(_LOAD_BYTE_INDEXED, 12, label="tcp answer"),
            _Step(_SHIFT_RIGHT, 4),
            _Step(_SHIFT_LEFT, 2),
            _Step(_ADD_INDEX),
            _Step(_INDEX_FROM_A),
            _Step(_LOAD_BYTE_INDEXED, 2 + 2),  # a length precedes the message
            _Step(_IF_SET, _IS_ANSWER, then="take", otherwise="drop"),
            _Step(_RETURN, PACKET_BYTES, label="take"),
            _Step(_RETURN, 0, label="drop"),
        ]
    )


def _one_of(ports: Collection[int], *, then: str) -> list[_Step]:
    *first, last = sorted(ports)
    return [
        *(_Step(_IF_EQUAL, port, then=then) for port in first),
        _Step(_IF_EQUAL, last, then=then, otherwise="drop"),
    ]


def _assembled(steps: list[_Step]) -> bytes:
    """Labels become distances forward; a jump that names none goes on with the next step."""
    at = {step.label: number for number, step in enumerate(steps) if step.label}
    code = b""
    for number, step in enumerate(steps):
        true, false = (at[label] - number - 1 if label else 0 for label in (step.then, step.otherwise))
        code += INSTRUCTION.pack(step.code, true, false, step.constant)
    return code
