"""The command line's options about names, the same for every command that finds any."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from dma.naming.dns_filter import PORTS_LIMIT
from dma.naming.methods import Naming

_DEFAULTS = Naming()


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
