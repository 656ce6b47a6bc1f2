"""Domains that run already, of whomever they are: their network cards, and where those are attached."""

import fnmatch
import json
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from idm.adopt import Card, Found, Places
from idm.drivers.domain import AGENT_CHANNEL
from idm.drivers.libvirt_connection import Hypervisor, MissingError, RefusedError
from idm.drivers.libvirt_domain import Domain

IP_S = 5.0
PING, PING_S = '{"execute": "guest-ping"}', 2.0


def running(hypervisor: Hypervisor, patterns: Sequence[str]) -> list[Found]:
    """The domains that run whose names match one of the patterns, by name."""
    found = []
    for name in _matching(hypervisor, patterns):
        # Somebody else's domain may go away meanwhile.
        with suppress(MissingError):
            found.append(Found(name, _cards(Domain(hypervisor, name))))
    return found


def silent(hypervisor: Hypervisor, patterns: Sequence[str]) -> list[str]:
    """Those of the domains whose guest agent does not answer."""
    return [one for one in _matching(hypervisor, patterns) if not _answers(Domain(hypervisor, one))]


def unreachable(hypervisor: Hypervisor, patterns: Sequence[str]) -> list[str]:
    """Those of the domains that have no channel to a guest agent, so that none can answer."""
    found = []
    for name in _matching(hypervisor, patterns):
        targets = ElementTree.fromstring(Domain(hypervisor, name).xml()).findall("devices/channel/target")
        if all(target.get("name") != AGENT_CHANNEL for target in targets):
            found.append(name)
    return found


def places(hypervisor: Hypervisor, found: Iterable[Found]) -> Places:
    """What the cards are attached to, where this host has an address."""
    attached = {(card.network, card.bridge) for one in found for card in one.cards}
    known = {where: _place(hypervisor, *where) for where in sorted(attached)}
    return {where: place for where, place in known.items() if place is not None}


def _matching(hypervisor: Hypervisor, patterns: Sequence[str]) -> list[str]:
    active = sorted(name for name, runs in hypervisor.running().items() if runs)
    return [name for name in active if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _answers(domain: Domain) -> bool:
    try:
        domain.ask_agent(PING, timeout_s=PING_S)
    except RefusedError:
        return False
    return True


def _cards(domain: Domain) -> list[Card]:
    addresses, leased = domain.addresses(), domain.leased()
    interfaces = ElementTree.fromstring(domain.xml()).findall("devices/interface")
    return [_card(interface, addresses, leased) for interface in interfaces]


def _card(interface: Element, addresses: dict[str, list[str]], leased: dict[str, list[str]]) -> Card:
    source, hardware = interface.find("source"), interface.find("mac")
    mac = (hardware.get("address", "") if hardware is not None else "").lower()
    address = next((IPv4Address(one) for one in addresses.get(mac, ())), None)
    # A running domain's description tells the bridge of a network, too.
    network = source.get("network", "") if source is not None else ""
    bridge = source.get("bridge", "") if source is not None and not network else ""
    return Card(network, bridge, address, leased=mac in leased)


def _place(hypervisor: Hypervisor, network: str, bridge: str) -> IPv4Interface | None:
    if bridge:
        return _bridge(bridge)
    with suppress(MissingError):
        for element in ElementTree.fromstring(hypervisor.network_xml(network)).findall("ip"):
            if element.get("family", "ipv4") == "ipv4":
                length = element.get("netmask") or element.get("prefix", "24")
                return IPv4Interface(f"{element.get('address')}/{length}")
    return None


def _bridge(name: str) -> IPv4Interface | None:
    command = ["ip", "-json", "-4", "address", "show", "dev", name]
    try:
        said = subprocess.run(command, capture_output=True, timeout=IP_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    known = [address for link in json.loads(said) for address in link.get("addr_info", ())]
    hosts = [IPv4Interface(f"{one['local']}/{one['prefixlen']}") for one in known]
    return hosts[0] if hosts else None
