"""Reverse look-ups on the wire (RFC 1035): a PTR question, and the names in its answer."""

from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from dma.flow import Address
from dma.naming.dns_answer import host_name


class PtrError(Exception):
    """The message is no answer to the question."""


class Answer(NamedTuple):
    """Names of an address, none when it has none, and for how long that holds."""

    names: tuple[str, ...]
    ttl_s: int


def question(identifier: int, address: Address) -> bytes:
    """Asks for the names of an address, with recursion."""
    return dns.message.make_query(address.reverse_pointer, dns.rdatatype.PTR, id=identifier).to_wire()


def answer(message: bytes, identifier: int) -> Answer:
    """Read the reply to a question; raises :class:`PtrError` for anything that is none, or that tells of a failure."""
    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as e:
        raise PtrError(f"no DNS message: {e}") from e
    if parsed.id != identifier or not parsed.flags & dns.flags.QR:
        raise PtrError("the message answers another question")
    if parsed.rcode() == dns.rcode.NXDOMAIN:
        return Answer((), 0)
    if parsed.rcode() != dns.rcode.NOERROR:
        raise PtrError(f"the server failed with code {parsed.rcode()}")
    pointers = [
        rrset
        for rrset in parsed.answer
        if rrset.rdtype == dns.rdatatype.PTR and rrset.rdclass == dns.rdataclass.IN
    ]
    targets = [host_name(record.target) for rrset in pointers for record in rrset]
    ttl_s = min((rrset.ttl for rrset in pointers), default=0)
    return Answer(tuple(dict.fromkeys(name for name in targets if name)), ttl_s)
