"""The naming methods that a machine's settings ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dma.capture.target import Target
from dma.naming.hosts import HostsFile
from dma.naming.method import Method
from dma.naming.name_server import Server
from dma.naming.names import Names
from dma.naming.passive import PORTS, PassiveDns
from dma.naming.registry.settings import Consul, Etcd, Static
from dma.naming.resolvers import Resolvers
from dma.naming.reverse import ReverseDns, configured_servers
from dma.naming.services import ServicesDatabase
from dma.naming.traffic.greetings import Greetings
from dma.naming.traffic.programs import Programs


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What an operator may choose about names."""

    passive_dns: bool = True
    """Whether to read the answers that applications get."""
    dns_ports: tuple[int, ...] = PORTS
    """Where their name servers listen."""
    reverse_dns: bool = True
    """Whether to ask for the names of addresses."""
    reverse_dns_servers: tuple[Server, ...] = ()
    """Whom to ask, such as a Consul at its port for DNS; those of the watched machine if it is left empty."""
    traffic_names: bool = True
    """Whether to guess from the first bytes of connections, and from the programs that make them."""
    consul: Consul | None = None
    etcd: Etcd | None = None
    registry: Static | None = None


def open_names(
    root: Path = Path("/"), naming: Naming | None = None, *, target: Target | None = None
) -> Names:
    """Begin to find names for a target, by default this machine, in the network namespace of the calling thread.

    ``root`` is the root directory of the machine that is watched; whose files these are is not trusted.
    """
    chosen = naming or Naming()
    methods: list[Method] = [HostsFile(root), Resolvers(root), ServicesDatabase(root)]
    passive = PassiveDns(chosen.dns_ports) if chosen.passive_dns else None
    if passive:
        methods.append(passive)
    if chosen.traffic_names:
        methods += [Greetings(target or Target()), Programs()]
    if chosen.reverse_dns:
        servers = list(chosen.reverse_dns_servers)
        methods.append(ReverseDns(lambda: servers or configured_servers(root)))
    methods += _registries(chosen, root)
    return Names(methods, superseded=passive.superseded if passive else None)


def _registries(naming: Naming, root: Path) -> Iterator[Method]:
    """Their HTTP client takes a fifth of the agent's memory, so whoever follows none does not load it."""
    if naming.consul or naming.etcd or naming.registry:
        from dma.naming.registry.follower import Follower
    if naming.consul:
        from dma.naming.registry.consul import ConsulFeed

        yield Follower(ConsulFeed(naming.consul, root), keep_s=naming.consul.keep_s)
    if naming.etcd:
        from dma.naming.registry.etcd import EtcdFeed

        yield Follower(EtcdFeed(naming.etcd, root), keep_s=naming.etcd.keep_s)
    if naming.registry:
        from dma.naming.registry.static import static_feed

        yield Follower(static_feed(naming.registry, root), keep_s=naming.registry.keep_s)
