"""Registries in the server's namespace, and an agent's followers in the client's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dma.naming.registry.follower import Feed, Follower
from tests.dma.capture.lab import SERVER_V4, Cable, within
from tests.lab.consul import Consul
from tests.lab.etcd import Etcd
from tests.lab.namespace import Namespace


@contextmanager
def following(network: Cable, feed: Feed, *, keep_s: float = 300.0) -> Iterator[Follower]:
    """A follower in the client's namespace."""
    follower = within(network.client, lambda: Follower(feed, keep_s=keep_s))
    try:
        yield follower
    finally:
        follower.close()


@pytest.fixture
def consul(network: Cable, tmp_path: Path) -> Iterator[Consul]:
    """A Consul that anybody may use."""
    with Consul(Namespace(network.server), SERVER_V4, tmp_path / "consul") as server:
        yield server


@pytest.fixture
def etcd(network: Cable, tmp_path: Path) -> Iterator[Etcd]:
    """An etcd that anybody may use."""
    with Etcd(Namespace(network.server), SERVER_V4, tmp_path / "etcd") as server:
        yield server


@contextmanager
def partition(network: Cable) -> Iterator[None]:
    """Nothing passes between the two namespaces, and nobody is told."""
    chains = (
        f"chain {hook} {{ type filter hook {hook} priority 0; {interface} != lo drop; }};"
        for hook, interface in (("input", "iif"), ("output", "oif"))
    )
    network.in_server("nft", f"table inet partition {{ {' '.join(chains)} }}")
    try:
        yield
    finally:
        network.in_server("nft", "delete", "table", "inet", "partition")
