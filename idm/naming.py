"""How agents find names, as the manifest says it; the agents' own configuration has the same keys."""

import json
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, description="a string in quotes, not empty")]
Url = Annotated[
    str, Meta(pattern="^https?://[^/]+/?$", description="a URL in quotes, such as http://198.18.0.2:8500")
]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port, from 1 to 65535")]
Seconds = Annotated[float, Meta(ge=0.2, le=86400, description="seconds, from 0.2 to 86400")]


class Access(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Files on the agents' machines: on this host for containers, in the guest for VMs."""

    ca: Text | None = None
    certificate: Text | None = None
    key: Text | None = None


class Consul(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Consul, as it is reached from inside the VCDs; ``token_file`` is on the agents' machines."""

    url: Url
    datacentre: Text | None = None
    token_file: Text | None = None
    tls: Access | None = None
    keep_s: Seconds | None = None


class Etcd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An etcd's members, as they are reached from inside the VCDs, and how services stand in it."""

    urls: Annotated[tuple[Url, ...], Meta(min_length=1, description="a list of URLs")]
    layout: Text | None = None
    user: Text | None = None
    password_file: Text | None = None
    tls: Access | None = None
    keep_s: Seconds | None = None


class Registry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list of services in a file on the agents' machines, or at a URL."""

    location: Text
    interval_s: Seconds | None = None
    tls: Access | None = None
    keep_s: Seconds | None = None


class Naming(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is left out stays as the agents have it."""

    passive_dns: bool | None = None
    dns_ports: tuple[Port, ...] | None = None
    reverse_dns: bool | None = None
    reverse_dns_servers: tuple[Text, ...] | None = None
    traffic_names: bool | None = None
    consul: Consul | None = None
    etcd: Etcd | None = None
    registry: Registry | None = None

    @property
    def registries(self) -> tuple[str, ...]:
        """The kinds of registry that are followed: services named by one have no ports of their own."""
        return tuple(kind for kind in ("consul", "etcd", "registry") if getattr(self, kind))

    def configuration(self) -> str:
        """The lines of an agent's configuration file, its plain keys first."""
        return "".join(f"{line}\n" for line in _lines(msgspec.to_builtins(self), table=""))


def _lines(keys: dict[str, object], *, table: str) -> Iterator[str]:
    """TOML; strings, lists, numbers and truth values are written as JSON writes them."""
    for key, value in keys.items():
        if not isinstance(value, dict):
            yield f"{key} = {json.dumps(value)}"
    for key, value in keys.items():
        if isinstance(value, dict):
            yield f"[{table}{key}]"
            yield from _lines(value, table=f"{table}{key}.")
