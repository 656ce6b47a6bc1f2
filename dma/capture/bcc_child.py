"""Compiles, loads and attaches programs by bcc, and hands their descriptors to the process that started it.

A program of its own: the compiler's 200 MB go away with it, and it runs by whichever interpreter has bcc. It knows
nothing of the agent. It reads one JSON object from standard input::

    {"text": "…", "cflags": ["-I…"], "programs": [["name", "kind", "place"], …]}

where a kind is ``raw_tracepoint``, ``kprobe``, ``kretprobe`` or ``none``, which is loaded and not attached. It answers
with one message on the socket whose descriptor is its argument: JSON with the number of descriptors of each program
loaded (itself, and what attaches it, which the kernel drops with the last copy) and the problems of the others.
"""

import json
import os
import socket
import sys

from bcc import BPF, lib  # type: ignore[import-untyped, unused-ignore] # the distribution's, without annotations

KINDS = {
    "raw_tracepoint": BPF.RAW_TRACEPOINT,
    "none": BPF.RAW_TRACEPOINT,
    "kprobe": BPF.KPROBE,
    "kretprobe": BPF.KPROBE,
}


def attach(program: int, kind: str, place: bytes) -> list[int]:
    """The descriptor that holds a program to its place, if it is to have one; raises OSError."""
    if kind == "none":
        return []
    if kind == "raw_tracepoint":
        link = lib.bpf_attach_raw_tracepoint(program, place)
    else:
        returns = kind == "kretprobe"
        name = (b"r_" if returns else b"p_") + place
        link = lib.bpf_attach_kprobe(program, int(returns), name, place, 0, 0)
    if link < 0:
        raise OSError(f"the kernel does not let it hang on {place.decode()}")
    return [link]


def main() -> None:
    """Do as standard input says."""
    job = json.load(sys.stdin)
    # bcc raises Exception itself: what it prints on standard error says why, and the caller reads that.
    compiled = BPF(text=job["text"].encode(), cflags=job["cflags"])
    descriptors: list[int] = []
    counts: dict[str, int] = {}
    problems: dict[str, str] = {}
    for name, kind, place in job["programs"]:
        try:
            program = compiled.load_func(name.encode(), KINDS[kind]).fd
            own = [program, *attach(program, kind, place.encode())]
        except Exception as e:  # noqa: BLE001 bcc raises no other
            problems[name] = str(e)
        else:
            counts[name] = len(own)
            descriptors += own
    with socket.socket(fileno=int(sys.argv[1])) as answers:
        told = json.dumps({"counts": counts, "problems": problems}).encode()
        socket.send_fds(answers, [told], descriptors)
    # bcc would detach on its way out, for the other holders as well.
    os._exit(0)


if __name__ == "__main__":
    main()
