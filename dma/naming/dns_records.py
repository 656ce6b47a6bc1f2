"""The records of an answer, by the library that knows them all.

It takes a tenth of a second to load, and an agent has more urgent things to do when it starts: who needs this imports
it when there is something to read.
"""

from collections.abc import Iterator
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from dma.flow import Address
from dma.naming.dns_answer import TTL_LIMIT_S, Answer, Binding, DnsError, Service, is_host_name

RECORDS_LIMIT = 256
_CHAIN_LIMIT = 16
_ADDRESSES = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA})


def read_answer(message: bytes) -> Answer:
    """Read a message as it came over UDP; of one that is cut short, what is whole. Raises :class:`DnsError`.

    Only what answers the question counts, so that nothing can be slipped in beside it.
    """
    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True, continue_on_error=True)
        return _read(parsed)
    except (dns.exception.DNSException, ValueError) as e:
        raise DnsError(f"no DNS message: {e}") from e


def _read(message: dns.message.Message) -> Answer:
    if not message.flags & dns.flags.QR or message.rcode() != dns.rcode.NOERROR or len(message.question) != 1:
        raise DnsError("the message answers nothing")
    asked = message.question[0]
    name = host_name(asked.name)
    if name is None or asked.rdclass != dns.rdataclass.IN:
        raise DnsError("the question is not for a host")
    records = {(rrset.name, rrset.rdtype): rrset for rrset in _of_internet(message.answer)}
    ttl_s, end = _end_of_chain(records, asked.name)
    found = records.get((end, asked.rdtype))
    if found is None or asked.rdtype not in (*_ADDRESSES, dns.rdatatype.SRV):
        return Answer(name, (), ())
    ttl_s = min(ttl_s, found.ttl)
    if asked.rdtype == dns.rdatatype.SRV:
        return _read_services(message, name, found, ttl_s)
    return Answer(name, tuple(Binding(name, address, None, ttl_s) for address in _addresses(found)), ())


def _end_of_chain(
    records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset], name: dns.name.Name
) -> tuple[int, dns.name.Name]:
    """Where a chain of aliases ends, and for how long all of it holds."""
    ttl_s = TTL_LIMIT_S
    for _ in range(_CHAIN_LIMIT):
        alias = records.get((name, dns.rdatatype.CNAME))
        if alias is None:
            return ttl_s, name
        ttl_s, name = min(ttl_s, alias.ttl), alias[0].target
    raise DnsError("the aliases run in circles")


def _read_services(message: dns.message.Message, name: str, found: dns.rrset.RRset, ttl_s: int) -> Answer:
    """The hosts that records name, and their addresses where the server has sent these along."""
    beside = [rrset for rrset in _of_internet(message.additional) if rrset.rdtype in _ADDRESSES]
    bindings, services = [], []
    for record in list(found)[:RECORDS_LIMIT]:
        host = host_name(record.target)
        if host is None or not record.port:
            continue
        services.append(Service(name, host, record.port, ttl_s))
        for rrset in beside:
            if rrset.name == record.target:
                lasting_s = min(ttl_s, rrset.ttl)
                bindings += [Binding(name, address, record.port, lasting_s) for address in _addresses(rrset)]
    return Answer(name, tuple(bindings), tuple(services))


def _of_internet(section: list[dns.rrset.RRset]) -> list[dns.rrset.RRset]:
    """Records of other classes have the types' names, and other members."""
    return [rrset for rrset in section[:RECORDS_LIMIT] if rrset.rdclass == dns.rdataclass.IN]


def _addresses(found: dns.rrset.RRset) -> Iterator[Address]:
    for record in list(found)[:RECORDS_LIMIT]:
        address = ip_address(record.address)
        mapped = address.ipv4_mapped if address.version == 6 else None
        yield mapped or address


def host_name(name: dns.name.Name) -> str | None:
    """A name as people write it, in lower case and without the root's dot; None for what no host is called."""
    text = name.to_text(omit_final_dot=True).lower()
    return text if is_host_name(text) else None
