"""``dma resolve``: what each way of finding names says of one destination, and which name is taken."""

import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

import msgspec
from rich.table import Table

from dma.flow import Destination, Transport
from dma.naming.method import Method
from dma.naming.name import HINTS, Name, Source
from dma.naming.names import Names
from dma.naming.registry.follower import Follower
from dma.naming.reverse import ReverseDns

TICK_S = 0.02
# What only a running agent can know: it listens, and does not ask.
HEARD = frozenset({Source.PASSIVE_DNS, Source.TLS_SNI, Source.HTTP_HOST, Source.GREETING, Source.PROCESS})


class ResolveError(ValueError):
    """This is no destination; the message says how to write one."""


class Finding(NamedTuple):
    """What one method says: ``detail`` is why it says nothing, or nothing to rely on."""

    source: Source
    names: tuple[Name, ...]
    detail: str


class Explanation(NamedTuple):
    """Every method's finding in the order of trust, the name that is taken if there is one, and why that one."""

    findings: tuple[Finding, ...]
    taken: Name | None
    why: str


def read_destination(text: str, transport: Transport = Transport.TCP) -> Destination:
    """``198.18.0.2:80`` or ``[fd00::2]:80``; raises :class:`ResolveError`."""
    host, _, port = text.rpartition(":")
    try:
        address, number = ip_address(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError as e:
        raise ResolveError(f"{text} is no destination: write ADDRESS:PORT, such as 198.18.0.2:80") from e
    if not 0 < number <= 0xFFFF:
        raise ResolveError(f"{text} has no port between 1 and 65535")
    return Destination(transport, address, number, "")


def explain(names: Names, destination: Destination, *, within_s: float) -> Explanation:
    """Ask every method, and wait for those that need time; what has not answered ``within_s`` is said to be late."""
    known = names.lookup(destination)
    deadline_s = time.monotonic() + within_s
    while any(_waits(method) for method in names.methods) and time.monotonic() < deadline_s:
        # A command for one person, without an event loop: the methods answer from threads of their own.
        time.sleep(TICK_S)
        names.changed()
        known = names.lookup(destination)
    return Explanation(tuple(_findings(names.methods, destination)), known[0] if known else None, _why(known))


def encode(destination: str, explanation: Explanation) -> str:
    """One JSON object; ``expires_ms`` counts from now, and is null for what does not expire."""
    taken, now_s = explanation.taken, time.monotonic()
    methods = [
        {
            "method": finding.source.value,
            "names": [
                {
                    "name": name.name,
                    "confidence": name.confidence,
                    "expires_ms": None if name.expires_s is None else round((name.expires_s - now_s) * 1000),
                }
                for name in finding.names
            ],
            "detail": finding.detail,
        }
        for finding in explanation.findings
    ]
    record = {
        "destination": destination,
        "name": taken.name if taken else None,
        "method": taken.source.value if taken else None,
        "why": explanation.why,
        "methods": methods,
    }
    return msgspec.json.encode(record).decode()


def table(explanation: Explanation) -> Table:
    """A row for each name, and for each method without one."""
    made, now_s = Table("method", "says", "trust", "expires", "", box=None), time.monotonic()
    for finding in explanation.findings:
        for name in finding.names:
            expires = "" if name.expires_s is None else f"in {max(0, name.expires_s - now_s):.0f} s"
            made.add_row(finding.source.value, name.name, str(name.confidence), expires, finding.detail)
        if not finding.names:
            made.add_row(finding.source.value, "", "", "", finding.detail)
    return made


def verdict(destination: str, explanation: Explanation) -> str:
    """The name and the reason; a manager knows better who has an address inside its stack."""
    name = explanation.taken.name if explanation.taken else destination
    return (
        f"{destination} is {name}: {explanation.why}. A VCD that has the address comes before all of these."
    )


def _waits(method: Method) -> bool:
    """Whether an answer is on its way."""
    counters = method.counters
    match method:
        case Follower():
            return not (method.synced or counters.failures)
        case ReverseDns():
            return not (counters.answers or counters.failures)
    return False


def _findings(methods: Iterable[Method], destination: Destination) -> Iterator[Finding]:
    asked = {method.source: method for method in methods}
    for source in Source:
        method = asked.get(source)
        if method is None:
            yield Finding(source, (), "a running agent hears it" if source in HEARD else "not asked")
        elif said := tuple(sorted(method.lookup(destination), key=lambda name: name.rank)):
            yield Finding(source, said, _doubt(method))
        else:
            yield Finding(source, (), _doubt(method) or "knows nothing of it")


def _doubt(method: Method) -> str:
    problem = method.counters.problem
    return problem or ("has not answered yet" if _waits(method) else "")


def _why(known: tuple[Name, ...]) -> str:
    if not known:
        return "no method knows a name: the address stands for itself"
    first = known[0]
    rival = next((name for name in known[1:] if name.name != first.name), None)
    kind = ", though it tells of a kind of service only" if first.source in HINTS else ""
    if rival is None:
        return f"there is no other name{kind}"
    if rival.confidence == first.confidence:
        return f"of equally trusted names the first in the alphabet is taken, on every launch the same{kind}"
    return (
        f"{first.source.value} is trusted with {first.confidence}, "
        f"{rival.source.value} ({rival.name}) with {rival.confidence}{kind}"
    )
