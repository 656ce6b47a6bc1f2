"""What is known from the resolver's configuration."""

from ipaddress import ip_address
from pathlib import Path

from dma.naming.resolvers import PATHS, Resolvers, name_servers
from tests.dma.naming.places import calling

SERVER, UPSTREAM = ip_address("198.18.0.53"), ip_address("198.18.9.53")


def test_whoever_is_asked_for_names_is_the_resolver(tmp_path: Path) -> None:
    """A configured name server's port is called resolver, wherever it is, and a change of the file is told."""
    stub, upstream = (tmp_path / path for path in PATHS)
    for path, server in ((stub, SERVER), (upstream, UPSTREAM)):
        path.parent.mkdir(parents=True)
        path.write_text(f"nameserver {server}\n")
    resolvers = Resolvers(tmp_path)
    for server in (SERVER, UPSTREAM):
        assert [one.name for one in resolvers.lookup(calling(server, port=53))] == ["resolver"]
    assert resolvers.lookup(calling(SERVER, port=443)) == ()
    assert resolvers.changed() == set()
    stub.write_text("nameserver 198.18.0.54\n")
    assert resolvers.changed() == {SERVER, ip_address("198.18.0.54")}
    assert resolvers.lookup(calling(SERVER, port=53)) == ()


def test_name_servers_are_taken_as_the_c_library_does() -> None:
    """The first three valid addresses count."""
    servers = ("198.18.0.1", "bad", "::1 # local", "198.18.0.2", "198.18.0.3")
    text = "# written by hand\n" + "".join(f"nameserver {server}\n" for server in servers)
    assert name_servers(text) == [ip_address("198.18.0.1"), ip_address("::1"), ip_address("198.18.0.2")]
