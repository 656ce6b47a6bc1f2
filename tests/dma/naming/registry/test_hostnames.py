"""Registries that are called by a name."""

import time
from pathlib import Path

import pytest

from dma.naming.background import END_S
from dma.naming.registry.consul import ConsulFeed
from dma.naming.registry.settings import Consul as Settings
from tests.dma.capture.lab import SERVER_V4, Cable
from tests.dma.naming.registry.conftest import following
from tests.dma.naming.registry.looking import called, until
from tests.lab.consul import Consul
from tests.lab.dnsmasq import name_server
from tests.lab.namespace import Namespace

WEB = "198.18.7.1"
URL = Settings(url="http://consul.shop:8500")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's root directory."""
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


def test_a_name_is_the_watched_machines(network: Cable, consul: Consul, root: Path, tmp_path: Path) -> None:
    """Its hosts file is read, and else its name servers are asked; what neither knows is a failure that says so."""
    consul.register("web", WEB, 8080)
    with following(network, ConsulFeed(URL, root)) as names:
        until(lambda: names.counters.failures)
        assert "consul.shop is not known to the watched machine" in names.counters.problem
        (root / "etc" / "hosts").write_text(f"{SERVER_V4} consul.shop\n")
        until(lambda: called(names, WEB, 8080) == ("web",))
    (root / "etc" / "hosts").unlink()
    (root / "etc" / "resolv.conf").write_text(f"nameserver {SERVER_V4}\n")
    with (
        name_server(Namespace(network.server), SERVER_V4, tmp_path, hosts=f"{SERVER_V4} consul.shop\n"),
        following(network, ConsulFeed(URL, root)) as names,
    ):
        until(lambda: called(names, WEB, 8080) == ("web",))


def test_silent_name_servers_hold_nobody_up(network: Cable, root: Path) -> None:
    """Where nobody answers for the name, failures are counted, and the thread ends when it is told."""
    (root / "etc" / "resolv.conf").write_text("nameserver 198.18.5.66\n")
    with following(network, ConsulFeed(URL, root)) as names:
        until(lambda: names.counters.failures)
        begin_s = time.monotonic()
        names.close()
        assert time.monotonic() - begin_s < END_S
