"""Names from hosts files."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.naming.hosts import ALIAS, CANONICAL, HostsFile, parse_hosts
from dma.naming.name import Name, Source
from tests.dma.naming.places import calling

TEXT = """
127.0.0.1   localhost
::1         localhost ip6-localhost
198.18.0.5  db.shop db      # the database
198.18.0.5  postgres db
fd00::5     db.shop
not-an-ip   nonsense
198.18.0.6
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's root with a hosts file."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").write_text(TEXT)
    return tmp_path


def test_every_line_of_an_address_counts(root: Path) -> None:
    """Canonical names come before aliases, each name once, and loopback and broken lines are left out."""
    names = parse_hosts(TEXT)
    assert [(one.name, one.confidence) for one in names[ip_address("198.18.0.5")]] == [
        ("db.shop", CANONICAL),
        ("db", ALIAS),
        ("postgres", CANONICAL),
    ]
    assert HostsFile(root).lookup(calling(ip_address("fd00::5"))) == (
        Name("db.shop", Source.HOSTS_FILE, CANONICAL),
    )
    assert ip_address("127.0.0.1") not in names
    assert not names[ip_address("198.18.0.6")]


def test_a_changed_file_is_read_again(root: Path) -> None:
    """A change names exactly the addresses whose names changed, also when the file goes away and comes back."""
    hosts = HostsFile(root)
    assert hosts.changed() == set()
    path = root / "etc" / "hosts"
    path.write_text(TEXT.replace("fd00::5     db.shop", "fd00::5 other"))
    assert hosts.changed() == {ip_address("fd00::5")}
    path.unlink()
    assert ip_address("198.18.0.5") in hosts.changed()
    assert hosts.counters.failures == 1
    path.write_text(TEXT)
    assert ip_address("198.18.0.5") in hosts.changed()
