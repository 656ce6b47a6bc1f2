"""The command line's options about names, the same for every command that finds any."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click
import msgspec
from msgspec import Struct

from dma.naming.dns_filter import PORTS_LIMIT
from dma.naming.methods import Naming
from dma.naming.name_server import Server
from dma.naming.registry.places import read_place
from dma.naming.registry.settings import LAYOUT, Consul, Etcd, Static
from dma.naming.resolvers import PORT

_DEFAULTS = Naming()


def _registry(form: type[Struct], key: str, *, several: bool = False) -> Callable[..., Struct | None]:
    """Makes a registry of its address alone; what a configuration file says of one is one already."""

    def read(_context: click.Context, _parameter: click.Parameter, value: Any) -> Struct | None:
        if value is None or isinstance(value, form):
            return value
        try:
            return msgspec.convert({key: value.split(",") if several else value}, form)
        except msgspec.ValidationError as e:
            raise click.BadParameter(f"{value} is none: give one such as http://127.0.0.1:8500") from e

    return read


def _servers(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[Server, ...]:
    places = [read_place(text) for text in texts]
    for text, place in zip(texts, places, strict=True):
        if place is None:
            raise click.BadParameter(f"{text} is no name server: give ADDRESS or ADDRESS:PORT")
    return tuple(Server(place.address, place.port or PORT) for place in places if place)


def _ports(_context: click.Context, _parameter: click.Parameter, ports: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(set(ports)) <= PORTS_LIMIT:
        raise click.BadParameter(f"give 1 to {PORTS_LIMIT} ports")
    return ports


_OPTIONS = (
    click.option(
        "--passive-dns/--no-passive-dns",
        default=_DEFAULTS.passive_dns,
        show_default=True,
        help="Read the answers that applications get from their name servers.",
    ),
    click.option(
        "--dns-port",
        "dns_ports",
        type=click.IntRange(1, 65535),
        multiple=True,
        default=_DEFAULTS.dns_ports,
        show_default=True,
        callback=_ports,
        help="Where name servers listen; may be given several times.",
    ),
    click.option(
        "--reverse-dns/--no-reverse-dns",
        default=_DEFAULTS.reverse_dns,
        show_default=True,
        help="Ask for the names of addresses.",
    ),
    click.option(
        "--reverse-dns-server",
        "reverse_dns_servers",
        metavar="ADDRESS[:PORT]",
        multiple=True,
        callback=_servers,
        help="Whom to ask instead of the watched machine's name servers; may be given several times.",
    ),
    click.option(
        "--traffic-names/--no-traffic-names",
        default=_DEFAULTS.traffic_names,
        show_default=True,
        help="Guess from the first bytes of connections, and from the programs that make them.",
    ),
    click.option(
        "--consul",
        type=click.UNPROCESSED,
        metavar="URL",
        callback=_registry(Consul, "url"),
        help="Follow the services of a Consul, such as http://127.0.0.1:8500.",
    ),
    click.option(
        "--etcd",
        type=click.UNPROCESSED,
        metavar="URL[,URL...]",
        callback=_registry(Etcd, "urls", several=True),
        help=f"Follow the services in an etcd, at {LAYOUT} unless the configuration file says where.",
    ),
    click.option(
        "--registry",
        type=click.UNPROCESSED,
        metavar="FILE|URL",
        callback=_registry(Static, "location"),
        help="Follow a list of services, in TOML or JSON.",
    ),
)


def naming_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options, and it one argument ``naming`` for them."""

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        chosen = {field.name: arguments.pop(field.name) for field in fields(Naming)}
        return command(naming=Naming(**chosen), **arguments)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
