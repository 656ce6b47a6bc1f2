"""One question of reverse DNS: which names point back from an address."""

from collections.abc import Iterator

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA

from dma.flow import Address
from dma.naming.dns_records import host_name
from dma.naming.name_server import Answer, ReverseError, Server

TIMEOUT_S = 1.0
MIN_TTL_S, MAX_TTL_S = 10.0, 3600.0
NEGATIVE_TTL_S, MAX_NEGATIVE_TTL_S = 60.0, 300.0


async def query(server: Server, address: Address) -> Answer:
    """Ask for an address's names, by TCP if there are too many for a datagram. Raises :class:`ReverseError`."""
    question = dns.message.make_query(dns.reversename.from_address(str(address)), dns.rdatatype.PTR)
    try:
        response, _ = await dns.asyncquery.udp_with_fallback(
            question, str(server.address), timeout=TIMEOUT_S, port=server.port, ignore_errors=True
        )
    except (dns.exception.DNSException, OSError, EOFError, ValueError) as e:
        reason = "does not answer" if isinstance(e, dns.exception.Timeout) else f"cannot be asked: {e}"
        raise ReverseError(f"the name server {server.address} {reason}: look at it") from e
    return read(response)


def read(response: dns.message.Message) -> Answer:
    """What a response says; raises :class:`ReverseError` when it tells of a failure."""
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise ReverseError(f"the name server fails with {dns.rcode.to_text(response.rcode())}: see its log")
    pointers = [(rrset.ttl, name) for rrset in response.answer for name in _names(rrset)]
    if not pointers:
        return Answer((), _negative_ttl_s(response))
    ttl_s = min(max(min(ttl_s for ttl_s, _ in pointers), MIN_TTL_S), MAX_TTL_S)
    return Answer(tuple(dict.fromkeys(name for _, name in pointers)), ttl_s)


def _names(rrset: dns.rrset.RRset) -> Iterator[str]:
    for record in rrset:
        if isinstance(record, PTR) and (name := host_name(record.target)):
            yield name


def _negative_ttl_s(response: dns.message.Message) -> float:
    """For how long there is no name, as the zone says it (RFC 2308)."""
    for rrset in response.authority:
        for record in rrset:
            if isinstance(record, SOA):
                return min(max(min(rrset.ttl, record.minimum), MIN_TTL_S), MAX_NEGATIVE_TTL_S)
    return NEGATIVE_TTL_S
