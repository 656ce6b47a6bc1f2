"""Domains that run already, of whomever they are: their network cards, and where those are attached."""

import fnmatch
import json
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from idm.adopt import Card, Found, Place, Places
from idm.drivers.libvirt_connection import Hypervisor, MissingError
from idm.drivers.libvirt_domain import Domain

IP_S = 5.0


def running(hypervisor: Hypervisor, patterns: Sequence[str]) -> list[Found]:
    """The domains that run whose names match one of the patterns, by name."""
    found = []
    for name in sorted(hypervisor.domains()):
        domain = Domain(hypervisor, name)
        # Somebody else's domain may go away meanwhile.
        with suppress(MissingError):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) and domain.active():
                found.append(Found(name, _cards(domain)))
    return found


def places(hypervisor: Hypervisor, found: Iterable[Found]) -> Places:
    """What the cards are attached to, where this host has an address."""
    attached = {(card.network, card.bridge) for one in found for card in one.cards}
    known = {where: _place(hypervisor, *where) for where in sorted(attached)}
    return {where: place for where, place in known.items() if place is not None}


def _cards(domain: Domain) -> list[Card]:
    addresses = domain.addresses()
    interfaces = ElementTree.fromstring(domain.xml()).findall("devices/interface")
    return [_card(interface, addresses) for interface in interfaces]


def _card(interface: Element, addresses: dict[str, list[str]]) -> Card:
    source, hardware = interface.find("source"), interface.find("mac")
    mac = hardware.get("address", "") if hardware is not None else ""
    address = next((IPv4Address(one) for one in addresses.get(mac.lower(), ())), None)
    if source is None:
        return Card(address=address)
    # A running domain's description tells the bridge of a network, too.
    network = source.get("network", "")
    return Card(network, "" if network else source.get("bridge", ""), address)


def _place(hypervisor: Hypervisor, network: str, bridge: str) -> Place | None:
    if bridge:
        return _bridge(bridge)
    with suppress(MissingError):
        for element in ElementTree.fromstring(hypervisor.network_xml(network)).findall("ip"):
            if element.get("family", "ipv4") == "ipv4":
                length = element.get("netmask") or element.get("prefix", "24")
                host = IPv4Interface(f"{element.get('address')}/{length}")
                return Place(host, dynamic=element.find("dhcp/range") is not None)
    return None


def _bridge(name: str) -> Place | None:
    command = ["ip", "-json", "-4", "address", "show", "dev", name]
    try:
        said = subprocess.run(command, capture_output=True, timeout=IP_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    known = [address for link in json.loads(said) for address in link.get("addr_info", ())]
    hosts = [IPv4Interface(f"{one['local']}/{one['prefixlen']}") for one in known]
    return Place(hosts[0]) if hosts else None
