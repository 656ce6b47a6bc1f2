"""Manifests for machines that run already."""

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from idm import manifest
from idm.adopt import Card, Found, draft, names, untouched
from idm.errors import DeployError

MANAGEMENT, PRIVATE = ("a-management", ""), ("lab", "")
PLACES = {
    MANAGEMENT: IPv4Interface("198.18.30.1/24"),
    PRIVATE: IPv4Interface("198.18.40.1/24"),
}


def found(domain: str, number: int) -> Found:
    """A machine of Vagrant's, which has a card in its management network, and one in a private network."""
    cards = (
        Card(*MANAGEMENT, IPv4Address(f"198.18.30.{number + 50}"), leased=True),
        Card(*PRIVATE, IPv4Address(f"198.18.40.{number}")),
    )
    return Found(domain, cards)


def test_what_is_written_is_a_manifest(tmp_path: Path) -> None:
    """The network with lasting addresses is chosen, and each machine is called what tells it from the others."""
    text = draft("lab", [found("proj_web", 11), found("proj_db-main", 12)], PLACES)
    path = tmp_path / "stack.toml"
    path.write_text(text)
    read = manifest.load(path)
    assert (read.stack.name, read.stack.driver) == ("lab", "libvirt")
    assert (read.network.subnet, read.network.libvirt) == ("198.18.40.0/24", "lab")
    assert {name: (vcd.domain, vcd.address) for name, vcd in read.vcd.items()} == {
        "web": ("proj_web", "198.18.40.11"),
        "db-main": ("proj_db-main", "198.18.40.12"),
    }
    assert read.manager.listen == ""


def test_the_manager_listens_where_this_host_is(tmp_path: Path) -> None:
    """An address of this host that is not the first of its network is named, and a bridge is one."""
    cards = (Card("", "br7", IPv4Address("198.18.50.11")),)
    text = draft("lab", [Found("one", cards)], {("", "br7"): IPv4Interface("198.18.50.254/24")})
    path = tmp_path / "stack.toml"
    path.write_text(text)
    read = manifest.load(path)
    assert (read.network.bridge, read.manager.listen) == ("br7", "198.18.50.254:7443")


def test_a_change_is_seen() -> None:
    """Only what is as it was written may be written anew."""
    text = draft("lab", [found("web", 11)], PLACES)
    assert untouched(text)
    assert not untouched(text + "# mine\n")
    assert not untouched("[stack]\n")


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        (["p_a", "p_b"], ["a", "b"]),
        (["web1", "web2"], ["web1", "web2"]),
        (["lab-web-1", "lab-web-2"], ["lab-web-1", "lab-web-2"]),
        (["only"], ["only"]),
        (["proj_only"], ["only"]),
        (["p_A.b", "p_c"], ["a-b", "c"]),
        (["p_x", "p_x_y"], ["x", "x-y"]),
    ],
)
def test_names_are_short(domains: list[str], expected: list[str]) -> None:
    """What all begin with is left out, unless a name would begin with a digit or be empty."""
    assert names(domains) == expected


@pytest.mark.parametrize(
    ("machines", "reason"),
    [
        ([], "no domain of that name runs: see virsh list"),
        ([Found("web", (Card("lab"),))], "no address of web is known: start qemu-guest-agent in it"),
        (
            [found("web", 11), Found("db", (Card("other", "", IPv4Address("198.18.60.2")),))],
            "web, db share no network in which this host has an address",
        ),
    ],
)
def test_what_is_not_known_is_told(machines: list[Found], reason: str) -> None:
    """One line says what is missing and what to try."""
    with pytest.raises(DeployError, match=reason):
        draft("lab", machines, PLACES)
