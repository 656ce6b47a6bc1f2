"""Names from the services database."""

from pathlib import Path

from dma.flow import Transport
from dma.naming.services import ServicesDatabase, parse_services
from tests.dma.naming.places import calling


def test_the_first_official_name_counts() -> None:
    """A port has the official name of its first line, by transport; other protocols and broken lines do not matter."""
    names = parse_services(
        "postgresql 5432/tcp postgres # x\nother 5432/tcp\nsyslog 514/udp\nx 9/sctp\nbad\nbad x/tcp\n"
    )
    assert {key: [one.name for one in found] for key, found in names.items()} == {
        (Transport.TCP, 5432): ["postgresql"],
        (Transport.UDP, 514): ["syslog"],
    }


def test_the_machines_own_database_comes_first(tmp_path: Path) -> None:
    """The database of the watched machine is used where there is one, else this machine's."""
    own = ServicesDatabase(tmp_path).lookup(calling(port=22))
    assert [one.name for one in own] == (["ssh"] if Path("/etc/services").exists() else [])
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "services").write_text("shop 22/tcp\n")
    assert [one.name for one in ServicesDatabase(tmp_path).lookup(calling(port=22))] == ["shop"]
