"""A manifest for machines that run already: which network they share, and what each is called. Pure."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface
from typing import NamedTuple

from idm.errors import DeployError
from idm.manager import PORT
from idm.manifest import LABEL

# The first line of a manifest that nobody has touched holds the digest of the others.
UNTOUCHED = "# written by idm adopt, {digest}: change what you like, it is kept then\n"


class Card(NamedTuple):
    """A network card: what it is attached to, a libvirt ``network`` or a ``bridge``, and its address when known.

    A ``leased`` address may be another one next time.
    """

    network: str = ""
    bridge: str = ""
    address: IPv4Address | None = None
    leased: bool = False


class Found(NamedTuple):
    """A domain that runs."""

    domain: str
    cards: Sequence[Card]


# This host's own address in a network, by what a card is attached to: a network or a bridge.
Places = Mapping[tuple[str, str], IPv4Interface]


def draft(stack: str, found: Sequence[Found], places: Places) -> str:
    """The manifest of these domains. Raises :class:`DeployError` that says what is not known."""
    if not found:
        raise DeployError("no domain of that name runs: see virsh list")
    where, addresses = _shared(found, places)
    host = places[where]
    subnet = host.network
    lines = ["[stack]", f"name = {_quote(stack)}", 'driver = "libvirt"', ""]
    lines += ["[network]", f"subnet = {_quote(str(subnet))}"]
    lines += [
        f"{key} = {_quote(value)}" for key, value in zip(("libvirt", "bridge"), where, strict=True) if value
    ]
    if host.ip != subnet.network_address + 1:
        lines += ["", "[manager]", f"listen = {_quote(f'{host.ip}:{PORT}')}"]
    for name, domain in zip(names([one.domain for one in found]), found, strict=True):
        address = addresses[domain.domain]
        lines += [
            "",
            f"[vcd.{name}]",
            f"domain = {_quote(domain.domain)}",
            f"address = {_quote(str(address))}",
        ]
    return sign("\n".join(lines) + "\n")


def sign(text: str) -> str:
    """The text with a first line by which :func:`untouched` knows it again."""
    return UNTOUCHED.format(digest=_digest(text)) + text


def untouched(text: str) -> bool:
    """Whether a manifest is as it was written here."""
    first, _, rest = text.partition("\n")
    return f"{first}\n" == UNTOUCHED.format(digest=_digest(rest))


def names(domains: Sequence[str]) -> list[str]:
    """A short name for each domain: without what all names begin with, as a host name has to be."""
    ends = zip(min(domains), max(domains), strict=False)
    common = "".join(one for one, other in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    # A word that all begin with stays whole: of web1 and web2 remain just those.
    cut = max(common.rfind(mark) for mark in "-_.") + 1
    short = [label(domain[cut:]) for domain in domains]
    if len(set(short)) < len(short) or any(not name or name[0].isdigit() for name in short):
        short = [label(domain) for domain in domains]
    if len(set(short)) < len(short) or not all(map(LABEL.fullmatch, short)):
        raise DeployError(f"{', '.join(domains)} make no host names: write the manifest by hand")
    return short


def label(text: str) -> str:
    """The text as a host name, as far as that goes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63]


def _shared(found: Sequence[Found], places: Places) -> tuple[tuple[str, str], dict[str, IPv4Address]]:
    """The network in which all have an address of their own, and these by domain; a lasting address comes first."""
    attached = {where: [_attached(one, where) for one in found] for where in places}
    shared = {
        where: cards for where, cards in attached.items() if all(card and card.address for card in cards)
    }
    if not shared:
        raise DeployError(_missing(found, places))
    best = min(shared, key=lambda where: (any(card and card.leased for card in shared[where]), where))
    cards = zip(found, shared[best], strict=True)
    return best, {one.domain: card.address for one, card in cards if card and card.address}


def _attached(found: Found, where: tuple[str, str]) -> Card | None:
    return next((card for card in found.cards if (card.network, card.bridge) == where), None)


def _missing(found: Sequence[Found], places: Places) -> str:
    unknown = [one.domain for one in found if not any(card.address for card in one.cards)]
    if unknown:
        return f"no address of {unknown[0]} is known: start qemu-guest-agent in it, or write the manifest by hand"
    return (
        f"{', '.join(one.domain for one in found)} share no network in which this host has an address "
        f"(looked at {', '.join(sorted(network or bridge for network, bridge in places)) or 'none'}): "
        "attach them to one"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quote(text: str) -> str:
    return json.dumps(text)
