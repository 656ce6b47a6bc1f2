"""How services stand in a key-value store.

A layout is a key with placeholders: ``/services/{service}/{instance}``, ``/prod/{service}/{ip}:{port}``. All before the
first placeholder is the prefix that is followed. ``{service}`` is required; a placeholder stands for one or more
characters other than ``/``, and ``{ip}`` and ``{port}`` say where the service is. Where they do not, the value does:
``198.18.0.2:80``, or a JSON object with ``ip``, ``address``, ``host`` or ``Addr`` (with a port or without), ``port``,
and ``service`` or ``name`` if it is called other than by its key.
"""

import re
from typing import NamedTuple

import msgspec

from dma.naming.method import Place
from dma.naming.registry.places import placed, read_place

PLACEHOLDERS = ("service", "instance", "ip", "port")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class LayoutError(ValueError):
    """The layout cannot be used; the message says what it needs."""


class Instance(NamedTuple):
    """A service and where it is."""

    service: str
    place: Place


class _Value(msgspec.Struct, frozen=True):
    ip: str = ""
    address: str = ""
    host: str = ""
    addr: str = msgspec.field(default="", name="Addr")
    port: int = 0
    service: str = ""
    name: str = ""


class Layout:
    """One layout. Raises :class:`LayoutError`."""

    def __init__(self, text: str) -> None:
        parts = _PLACEHOLDER.split(text)
        literals, names = parts[::2], parts[1::2]
        unknown = set(names) - set(PLACEHOLDERS)
        if "service" not in names or unknown or len(set(names)) < len(names) or not literals[0]:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise LayoutError(
                f'no layout: "{text}"; write a prefix, {{service}}, and what else there is of {known}, each once'
            )
        self.prefix = literals[0]
        groups = (f"(?P<{name}>[^/]+)" for name in names)
        pattern = "".join(
            re.escape(literal) + group for literal, group in zip(literals, (*groups, ""), strict=True)
        )
        self._key = re.compile(pattern)

    def read(self, key: bytes, value: bytes) -> Instance | None:
        """What an entry says; None when it is not of this layout."""
        try:
            found = self._key.fullmatch(key.decode())
            said = _said(value.decode())
        except (UnicodeDecodeError, msgspec.DecodeError):
            return None
        if found is None:
            return None
        parts = found.groupdict()
        place = _place(parts, said)
        return Instance(said.service or said.name or parts["service"], place) if place else None


def _said(value: str) -> _Value:
    if value.lstrip().startswith("{"):
        return msgspec.json.decode(value, type=_Value, strict=False)
    return _Value(address=value)


def _place(parts: dict[str, str | None], said: _Value) -> Place | None:
    port = parts.get("port") or ""
    if ip := parts.get("ip"):
        return placed(ip, int(port) if port.isdecimal() else said.port)
    place = read_place(said.ip or said.address or said.host or said.addr)
    if place is None or place.port is not None:
        return place
    return placed(str(place.address), int(port) if port.isdecimal() else said.port)
