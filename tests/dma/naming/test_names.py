"""All methods together."""

from ipaddress import ip_address
from pathlib import Path

from dma.flow import Destination, Transport
from dma.naming.methods import Naming, open_names


def test_the_most_trusted_name_comes_first(tmp_path: Path) -> None:
    """Names of every method come in one stable order: by confidence, then by source and name."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").write_text("198.18.0.5 db.shop db\n")
    (tmp_path / "etc" / "services").write_text("postgresql 5432/tcp\n")
    destination = Destination(Transport.TCP, ip_address("198.18.0.5"), 5432, "web")
    with open_names(tmp_path, Naming(reverse_dns=False, traffic_names=False)) as names:
        found = names.lookup(destination)
        assert [one.name for one in found] == ["db.shop", "db", "postgresql"]
        (tmp_path / "etc" / "hosts").write_text("198.18.0.5 db.shop\n")
        assert names.changed() == {ip_address("198.18.0.5")}
        assert [one.name for one in names.lookup(destination)] == ["db.shop", "postgresql"]


def test_nothing_is_known_of_an_empty_machine(tmp_path: Path) -> None:
    """Files that are not there cost counters, and the destination has no name."""
    with open_names(tmp_path, Naming(reverse_dns=False, traffic_names=False)) as names:
        assert names.lookup(Destination(Transport.TCP, ip_address("198.18.0.5"), 59999, "web")) == ()
        assert sum(method.counters.failures for method in names.methods) >= 2
