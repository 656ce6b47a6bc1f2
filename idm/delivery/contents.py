"""What a program needs in a guest: the product's packages, the libraries that they depend on, and libbpf."""

import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from idm.errors import DeployError

PARENT = "/usr/local/lib/stackmend"
# Nothing that a program reads while it runs.
UNUSED_PARTS, UNUSED_SUFFIXES = {"__pycache__", "tests", ".."}, {".pyi", ".pyx", ".pxd", ".h"}


class Role(Enum):
    """What is bundled, by the name of its program."""

    AGENT = "dma"
    MANAGER = "dm"

    @property
    def home(self) -> str:
        """The environment's place in a guest."""
        return f"{PARENT}/{self.value}"

    @property
    def extras(self) -> tuple[str, ...]:
        """The sets of what the product depends on."""
        return ("", "dm") if self is Role.MANAGER else ("",)

    @property
    def libraries(self) -> tuple[str, ...]:
        """The shared libraries that not every system has."""
        return ("libelf.so.1", "libbpf.so.1") if self is Role.AGENT else ()


@dataclass(frozen=True)
class Python:
    """A version of Python, such as ``3.11``, and a directory with libraries for it, else this installation's own."""

    version: str
    libraries: Path | None = None

    @property
    def abi(self) -> str:
        """What its extension modules are called after, on machines like this one: ``cpython-311-x86_64-linux-gnu``."""
        _, _, platform = str(sysconfig.get_config_var("SOABI")).split("-", 2)
        return f"cpython-{self.version.replace('.', '')}-{platform}"

    def find(self, name: str) -> Distribution:
        """An installed library. Raises :class:`DeployError`."""
        path = sys.path if self.libraries is None else [str(self.libraries)]
        context = DistributionFinder.Context(name=name, path=path)
        found = next(iter(MetadataPathFinder.find_distributions(context)), None)
        if found is None:
            place = self.libraries or "this installation"
            raise DeployError(f"{name} is missing in {place}: install all of runtime.lock there")
        return found


OWN = Python(f"{sys.version_info.major}.{sys.version_info.minor}")


def contents(role: Role, python: Python) -> dict[str, Path]:
    """All files by their names in an environment, sorted. Raises :class:`DeployError` when something is missing."""
    place = f"lib/python{python.version}/site-packages"
    files = {f"lib/{name}": _library(name) for name in role.libraries}
    for name, path in (*_own(role), *_foreign(role, python)):
        if not UNUSED_PARTS & set(Path(name).parts) and path.suffix not in UNUSED_SUFFIXES and path.is_file():
            files[f"{place}/{name}"] = path
    if role is Role.AGENT and not any(path.suffixes == [".bpf", ".o"] for path in files.values()):
        raise DeployError("the agent's BPF object is missing in this installation: build it with make")
    return dict(sorted(files.items()))


def _own(role: Role) -> Iterator[tuple[str, Path]]:
    """The product's packages, wherever they are imported from, and what tells their version."""
    # The agent shares the contract with the manager.
    for package in {role.value, "dm"}:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise DeployError(f"the package {package} is missing in this installation: install it whole")
        root = Path(spec.origin).parent
        for path in root.rglob("*"):
            yield f"{package}/{path.relative_to(root)}", path
    for file in distribution("stackmend").files or ():
        if file.name == "METADATA":
            yield str(file), Path(str(file.locate()))


def _foreign(role: Role, python: Python) -> Iterator[tuple[str, Path]]:
    """The files of all distributions that the programs need."""
    for name in sorted(set(_needed(distribution("stackmend"), role.extras, python))):
        for file in python.find(name).files or ():
            yield str(file), Path(str(file.locate()))


def _needed(root: Distribution, extras: tuple[str, ...], python: Python) -> Iterator[str]:
    for line in root.requires or ():
        requirement = Requirement(line)
        marker, here = requirement.marker, {"python_version": python.version}
        if marker is None or any(marker.evaluate(here | {"extra": extra}) for extra in extras):
            yield requirement.name
            yield from _needed(python.find(requirement.name), ("", *requirement.extras), python)


def _library(name: str) -> Path:
    """This host's library, by the places that distributions have for them."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for place in (f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib"):
        if (path := Path(place) / name).exists():
            return path
    raise DeployError(f"{name} is missing on this host: install libbpf (apt-get install libbpf1)")
