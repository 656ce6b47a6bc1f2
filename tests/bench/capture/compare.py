"""Everything that the capture is held against, one after the other on one kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.capture import rivals
from tests.bench.capture.cost import (
    BPFTRACE,
    CONNTRACK,
    FLOOR,
    NOTHING,
    OURS,
    PACKETS,
    TCPCONNECT,
    TCPTRACER,
    Costs,
    measure,
)
from tests.bench.capture.load import Generator, Lab
from tests.bench.capture.rivals import Attached, Rival
from tests.lab.namespace import run

# Without a rule that asks for it, the kernel tracks no connections in a namespace.
TRACKED = "table inet tracked { chain output { type filter hook output priority 0; ct state new counter; }; }"
BCC = {TCPCONNECT: "/usr/sbin/tcpconnect-bpfcc", TCPTRACER: "/usr/sbin/tcptracer-bpfcc"}
TCPDUMP = ("tcpdump", "-i", "lo", "-U", "-s", "96", "-w", "/dev/stdout")
PROMPT_MS = 50


def compare(made: Lab, *, plan: str, empty: Path, rounds: int, bcc: tuple[str, ...] = ()) -> Costs:
    """Costs of the plan and of its rivals; ``empty`` was made by ``compile_empty``, ``bcc`` names tools of its own."""
    with made.generator() as generator:
        attached: dict[str, Rival] = {
            NOTHING: rivals.nothing,
            FLOOR: partial(rivals.floor, plan, empty),
            OURS: partial(rivals.ours, plan),
            BPFTRACE: partial(rivals.bpftrace, plan),
            PACKETS: _printing(generator, *made.inside.enter(*TCPDUMP)),
            CONNTRACK: partial(_tracking, made, _printing(generator, *made.inside.enter("conntrack", "-E"))),
        }
        attached |= {tool: _printing(generator, "python3", "-u", BCC[tool]) for tool in bcc}
        return measure(generator, attached, rounds=rounds)


@contextmanager
def _tracking(made: Lab, rival: Rival) -> Iterator[Attached]:
    """A rival that needs the kernel to track connections, with what that costs."""
    run(made.inside.enter("nft", TRACKED))
    try:
        with rival() as attached:
            yield attached
    finally:
        run(made.inside.enter("nft", "delete table inet tracked"))


def _printing(generator: Generator, *command: str) -> Rival:
    return partial(rivals.printing, list(command), partial(generator.run, "tcp", milliseconds=PROMPT_MS))
