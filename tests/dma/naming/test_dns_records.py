"""What an answer says."""

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma.naming.dns_answer import Binding, DnsError, Service
from dma.naming.dns_records import read_answer


def answering(question: str, kind: str, *records: str, beside: tuple[str, ...] = ()) -> bytes:
    """A server's answer on the wire, of records such as ``db.shop. 60 A 198.18.0.5``."""
    message = dns.message.make_response(dns.message.make_query(question, kind))
    for section, texts in ((message.answer, records), (message.additional, beside)):
        for text in texts:
            name, ttl, kind_of_record, *data = text.split()
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind_of_record, " ".join(data)))
    return message.to_wire()


def test_a_chain_lasts_as_long_as_its_shortest_link() -> None:
    """The head of a chain of aliases names every address at its end, in lower case, for the shortest time in it."""
    answer = read_answer(
        answering(
            "WWW.Shop",
            "A",
            "www.shop. 60 CNAME cdn.example.",
            "cdn.example. 5 CNAME edge.example.",
            "edge.example. 30 A 198.18.0.5",
            "edge.example. 30 A 198.18.0.6",
        )
    )
    assert answer.name == "www.shop"
    assert answer.bindings == tuple(
        Binding("www.shop", ip_address(address), None, 5) for address in ("198.18.0.5", "198.18.0.6")
    )


def test_mapped_addresses_are_ipv4() -> None:
    """An IPv4-mapped address is the one that a connect will show."""
    answer = read_answer(answering("db.shop", "AAAA", "db.shop. 60 AAAA ::ffff:198.18.0.5"))
    assert [one.address for one in answer.bindings] == [ip_address("198.18.0.5")]


def test_services_name_hosts_and_ports() -> None:
    """An SRV record tells a host and a port; its address may come along."""
    answer = read_answer(
        answering(
            "_pg._tcp.shop",
            "SRV",
            "_pg._tcp.shop. 60 SRV 0 0 5432 db.shop.",
            "_pg._tcp.shop. 60 SRV 0 0 5433 spare.shop.",
            beside=("db.shop. 10 A 198.18.0.5", "db.shop. 10 AAAA fd00::5"),
        )
    )
    assert set(answer.services) == {
        Service("_pg._tcp.shop", "db.shop", 5432, 60),
        Service("_pg._tcp.shop", "spare.shop", 5433, 60),
    }
    assert answer.bindings == tuple(
        Binding("_pg._tcp.shop", ip_address(address), 5432, 10) for address in ("198.18.0.5", "fd00::5")
    )


def test_nothing_is_slipped_in_beside_the_answer() -> None:
    """Records that the question does not lead to say nothing."""
    answer = read_answer(
        answering(
            "db.shop", "A", "bank.example. 60 A 198.18.0.66", beside=("bank.example. 60 A 198.18.0.66",)
        )
    )
    assert answer.bindings == ()


@pytest.mark.parametrize(
    "records",
    [
        ("a.shop. 60 CNAME b.shop.", "b.shop. 60 CNAME a.shop."),
        ("a.shop. 60 CNAME a.shop.",),
    ],
)
def test_aliases_in_circles_are_refused(records: tuple[str, ...]) -> None:
    """A chain without an end is an error, not a loop."""
    with pytest.raises(DnsError, match="circles"):
        read_answer(answering("a.shop", "A", *records))


def test_records_of_other_classes_do_not_count() -> None:
    """A record of an address's type but of another class holds no address."""
    message = answering("db.shop", "A", "db.shop. 60 A 198.18.0.5")
    assert read_answer(message.replace(b"\0\1\0\1\0\0\0\x3c", b"\0\1\7\7\0\0\0\x3c")).bindings == ()


def test_what_is_no_answer_is_refused() -> None:
    """Questions, failures, names that no host can have, and nothing at all are errors."""
    refused = dns.message.make_response(dns.message.make_query("db.shop", "A"))
    refused.set_rcode(dns.rcode.NXDOMAIN)
    for message in (
        b"",
        dns.message.make_query("db.shop", "A").to_wire(),
        refused.to_wire(),
        answering("a\\032b.shop", "A", "a\\032b.shop. 60 A 198.18.0.5"),
    ):
        with pytest.raises(DnsError):
            read_answer(message)


@given(st.integers(0, 400))
def test_a_message_cut_short_says_what_is_whole(length: int) -> None:
    """However much of a message is missing, it is an error or says less, and never something else."""
    whole = answering("db.shop", "A", *(f"db.shop. 60 A 198.18.0.{number}" for number in range(1, 21)))
    try:
        answer = read_answer(whole[:length])
    except DnsError:
        return
    assert set(answer.bindings) <= set(read_answer(whole).bindings)
