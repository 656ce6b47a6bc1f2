"""The Python side's picture of the kernel's table is the C side's."""

import subprocess
from ipaddress import IPv4Address
from pathlib import Path

from dma.capture.layout import (
    COUNTERS,
    DESTINATION,
    ENTRY,
    FAILURES,
    KNOBS,
    LOSSES,
    TALK,
    Counters,
    Knobs,
    Talk,
    destination,
    entries,
    talks,
)
from dma.flow import Destination, Transport

HEADER = Path(__file__).parents[3] / "bpf" / "flows.h"


def compile_asserts(*asserts: str, header: Path = HEADER) -> None:
    """Have the C compiler check assertions about a shared header."""
    lines = ["#include <stddef.h>", "#include <linux/types.h>", f'#include "{header}"']
    lines += [f'_Static_assert({condition}, "");' for condition in asserts]
    source = "\n".join(lines).encode()
    command = ["clang", "-fsyntax-only", "-x", "c", "-"]
    result = subprocess.run(command, input=source, capture_output=True, timeout=30)
    assert result.returncode == 0, result.stderr.decode()


def test_counters() -> None:
    """Each member of struct counters stands where its Python field is unpacked from, the failures in order."""
    offsets = []
    for index, name in enumerate(Counters._fields):
        at = COUNTERS.unpack(COUNTERS.pack(*(i == index for i in range(len(Counters._fields)))))
        assert at.index(1) == index
        position = COUNTERS.pack(*(i == index for i in range(len(Counters._fields)))).index(1)
        if name in [failure.name.lower() for failure in FAILURES]:
            offsets.append(f"offsetof(struct counters, failures[{name.upper()}]) == {position}")
        else:
            offsets.append(f"offsetof(struct counters, {name}) == {position}")
    compile_asserts(f"sizeof(struct counters) == {COUNTERS.size}", *offsets)


def test_entry() -> None:
    """The table's values are unpacked into destinations, undecoded, and their counters."""
    compile_asserts(
        f"sizeof(struct entry) == {ENTRY.size}",
        f"offsetof(struct entry, counters) == {DESTINATION.size}",
    )
    key, one = bytes(range(DESTINATION.size)), Counters(*range(len(Counters._fields)))
    assert list(entries(ENTRY.pack(key, *one) * 2)) == [(key, one)] * 2


def test_knobs() -> None:
    """Each member of struct knobs stands where its Python field is packed to."""
    zero = (0, 0, 0, 0, 0, False, False, False, False, False)
    offsets = []
    for index, name in enumerate(Knobs._fields):
        one = Knobs._make((*zero[:index], 1, *zero[index + 1 :]))
        offsets.append(f"offsetof(struct knobs, {name}) == {one.pack().index(1)}")
    compile_asserts(f"sizeof(struct knobs) == {KNOBS.size}", *offsets)


def test_talk() -> None:
    """A connected UDP socket is unpacked member by member."""
    offsets = {"key": 0, "counted": DESTINATION.size, "begun_ns": DESTINATION.size + 8}
    compile_asserts(
        f"sizeof(struct talk) == {TALK.size}",
        *(f"offsetof(struct talk, {name}) == {offset}" for name, offset in offsets.items()),
    )
    one = Talk(bytes(range(DESTINATION.size)), 1, 2)
    assert list(talks(TALK.pack(*one) * 2)) == [one, one]


def test_enumerations() -> None:
    """Failures and losses are numbered alike on both sides."""
    losses = [f"LOST_{loss.name} == {index}" for index, loss in enumerate(LOSSES)]
    failures = [f"{failure.name} == {index}" for index, failure in enumerate(FAILURES)]
    compile_asserts(*losses, *failures, f"FAILURES == {len(FAILURES)}", f"LOSSES == {len(LOSSES)}")


def test_destination() -> None:
    """A key is unpacked member by member."""
    offsets = {"daddr": 0, "command": 16, "dport": 32, "transport": 34}
    compile_asserts(
        f"sizeof(struct destination) == {DESTINATION.size}",
        *(f"offsetof(struct destination, {name}) == {offset}" for name, offset in offsets.items()),
    )
    mapped = bytes(10) + b"\xff\xff" + bytes([198, 18, 0, 1])
    key = DESTINATION.pack(mapped, b"psql", 5432, Transport.TCP.value)
    assert destination(key) == Destination(Transport.TCP, IPv4Address("198.18.0.1"), 5432, "psql")
