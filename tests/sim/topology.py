"""Dependency graphs of well-known systems, as files describe them."""

from pathlib import Path
from typing import NamedTuple

import msgspec

KEPT = Path(__file__).resolve().parent.parent / "topologies"


class Dependency(NamedTuple):
    """One edge of a topology."""

    source: str
    target: str
    port: int
    transport: str


class Topology(msgspec.Struct, frozen=True):
    """A system. Launch edges need no traffic, optional ones are not always there, external ones lead outside."""

    name: str
    services: list[dict[str, object]]
    edges: list[Dependency]
    launch_edges: list[Dependency] = []
    optional_edges: list[Dependency] = []
    external_edges: list[Dependency] = []

    @property
    def names(self) -> list[str]:
        """The services' names; whoever calls is one, be it listed or not."""
        listed = [str(service["name"]) for service in self.services]
        return list(dict.fromkeys([*listed, *(edge.source for edge in self.edges)]))


def load(path: Path) -> Topology:
    """Read one file."""
    return msgspec.json.decode(path.read_bytes(), type=Topology)


def load_all(directory: Path = KEPT) -> list[Topology]:
    """All topologies of a directory, by file name."""
    return [load(path) for path in sorted(directory.glob("*.json"))]
