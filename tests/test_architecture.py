"""The tree's own rules, held against its imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

from tests.stubs import PROTO, ROOT, generate

PACKAGES = ("dma", "dm", "idm")
ALLOWED = {"dma": {"dm.v1", "dm.exposition", "dm.peer", "dm.tls"}, "idm": {"dm.v1", "dm.client"}, "dm": set()}
PURE = (
    "edge",
    "graph",
    "golden",
    "learning",
    "rules",
    "capture",
    "difference",
    "expected",
    "knobs",
    "kin",
    "pace",
    "policy",
    "states",
    "explain",
    "deviation",
    "contacts",
    "blame",
    "evidence",
    "vcd",
    "verdict",
    "rollback",
    "stack",
)
IMPURE_MODULES = {"asyncio", "grpc", "os", "pathlib", "random", "socket", "sqlite3", "subprocess", "time"}
FEW = {"bcc": 1, "libvirt": 2, "podman": 1, "ctypes": 4, "pyroute2": 4}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, with the names taken from packages."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    """A package's modules, without the generated ones."""
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "_pb2" not in path.name]


def module_of(path: Path) -> str:
    """What a file is imported as."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_programs_share_only_the_contract(package: str) -> None:
    """dma and idm know dm.v1 and a few modules beside it and nothing else of the others; dm knows neither."""
    others = set(PACKAGES) - {package}
    for path in sources(package):
        for name in imports(path):
            if name.split(".")[0] in others:
                allowed = any(name == one or name.startswith(f"{one}.") for one in ALLOWED[package])
                assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_no_two_modules_need_each_other() -> None:
    """The imports, those within functions too, have no circle."""
    paths = {module_of(path): path for package in PACKAGES for path in sources(package)}
    needs = nx.DiGraph(
        (module, name if name in paths else name.rpartition(".")[0])
        for module, path in paths.items()
        for name in imports(path)
    ).subgraph(paths)
    assert [circle for circle in nx.strongly_connected_components(needs) if len(circle) > 1] == []


@pytest.mark.parametrize("module", PURE)
def test_the_judging_core_is_pure(module: str) -> None:
    """Nothing in the core reads a clock, opens a file or talks to anybody."""
    for name in imports(ROOT / "dm" / f"{module}.py"):
        assert name.split(".")[0] not in IMPURE_MODULES, f"dm/{module}.py imports {name}"


@pytest.mark.parametrize(("library", "most"), FEW.items())
def test_foreign_worlds_stand_in_few_modules(library: str, most: int) -> None:
    """Libraries that talk to kernels and engines are hidden behind our own types."""
    users = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] == library
    }
    assert len(users) <= most, sorted(users)


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    """dm/v1 holds exactly what protoc makes of proto/dm/v1 today."""
    made = {path.name: path.read_text() for path in generate(tmp_path)}
    kept = {path.name: path.read_text() for path in sorted((ROOT / "dm" / "v1").glob("*_pb2*"))}
    assert made == kept, "run `make stubs`"


def test_the_contract_passes_the_linter() -> None:
    """buf's standard rules and its rules on comments hold for every message and field."""
    buf = Path(sys.executable).parent / "buf"
    linted = subprocess.run([buf, "lint", PROTO], capture_output=True, text=True, check=False, timeout=60)
    assert linted.returncode == 0, linted.stdout
