"""Where registries are and how to speak to them, as the configuration file says it."""

from typing import Annotated

from msgspec import Meta, Struct

from dma.naming.registry.layout import Layout

Url = Annotated[str, Meta(pattern="^https?://[^/]+/?$", description="a URL such as http://198.18.0.2:8500")]
Seconds = Annotated[float, Meta(ge=0.2, le=86400, description="seconds, from 0.2 to 86400")]

LAYOUT = "/services/{service}/{instance}"
KEEP_S = 300.0
"""Names of a registry that nothing was heard of for longer are dropped."""


class Access(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths, in PEM form; without a CA the system's are trusted. The key may be in the certificate's file."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class Consul(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Consul agent or server; ``token_file`` holds an ACL token that may read nodes and services."""

    url: Url
    datacentre: str = ""
    token_file: str = ""
    tls: Access = Access()
    keep_s: Seconds = KEEP_S


class Etcd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members of an etcd cluster, and how services stand in it: see :mod:`dma.naming.registry.layout`."""

    urls: Annotated[tuple[Url, ...], Meta(min_length=1)]
    layout: str = LAYOUT
    user: str = ""
    password_file: str = ""
    tls: Access = Access()
    keep_s: Seconds = KEEP_S

    def __post_init__(self) -> None:
        Layout(self.layout)  # what it refuses the file is refused for


class Static(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A list of services in a file, or at an HTTP URL, looked at again every ``interval_s``."""

    location: Annotated[
        str, Meta(min_length=1, description="a path, or a URL such as https://host/services.json")
    ]
    interval_s: Seconds = 2.0
    tls: Access = Access()
    keep_s: Seconds = KEEP_S
