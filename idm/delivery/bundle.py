"""A program as an archive for guests that lack it, made of this installation's own files: nothing is downloaded.

It fits a Python of the same version, machine and C library as the one that it was made with, and holds what a virtual
environment holds, and libbpf for guests that have none.
"""

import gzip
import hashlib
import io
import os
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from idm.errors import DeployError

PARENT = "/usr/local/lib/stackmend"
# Nothing that a program reads while it runs.
UNUSED_PARTS, UNUSED_SUFFIXES = {"__pycache__", "tests", ".."}, {".pyi", ".pyx", ".pxd", ".h"}
# Archives have to know no time before 1980, and an equal content is to be an equal archive.
MADE = 315532800
FASTER = 6


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


class Bundle(NamedTuple):
    """An archive for guests whose Python has this ``abi``, such as ``cpython-311-x86_64-linux-gnu``.

    ``digest`` tells one content from another.
    """

    path: Path
    role: Role
    abi: str
    digest: str


def named(directory: Path, role: Role, abi: str, digest: str) -> Bundle:
    """The bundle as it is called."""
    return Bundle(directory / f"{role.value}.{abi}.{digest}.tar.gz", role, abi, digest)


def own_abi() -> str:
    """That of the Python that runs this."""
    return str(sysconfig.get_config_var("SOABI"))


def ensure(directory: Path, role: Role) -> Bundle:
    """The bundle of this installation; made, in some seconds, unless it is there as the installation has it now.

    Raises :class:`idm.errors.DeployError` when something is missing, or cannot be written.
    """
    files = _contents(role)
    bundle = named(directory, role, own_abi(), _digest(files))
    if not bundle.path.exists():
        try:
            _write(bundle, files)
        except OSError as e:
            raise DeployError(
                f"{bundle.path} cannot be written: {e.strerror}: look at the disk, or run as root"
            ) from e
    return bundle


def available(directory: Path, role: Role) -> dict[str, Bundle]:
    """All bundles by what they fit: that of this installation, and those that were brought here from others.

    Raises :class:`idm.errors.DeployError` like :func:`ensure`.
    """
    own = ensure(directory, role)
    names = [path.name.split(".") for path in directory.glob(f"{role.value}.*.*.tar.gz")]
    return {abi: named(directory, role, abi, digest) for _, abi, digest, *_ in names} | {own.abi: own}


def _write(bundle: Bundle, files: Mapping[str, Path]) -> None:
    """The whole bundle under its name, instead of older ones."""
    directory = bundle.path.parent
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = directory / f".{os.getpid()}.new"
    try:
        with fresh.open("wb") as file:
            _pack(file, files, bundle)
        replaced = [
            path for path in directory.glob(f"{bundle.role.value}.{bundle.abi}.*") if path != bundle.path
        ]
        fresh.rename(bundle.path)
    finally:
        fresh.unlink(missing_ok=True)
    for path in replaced:
        path.unlink(missing_ok=True)


def _pack(file: io.BufferedWriter, files: Mapping[str, Path], bundle: Bundle) -> None:
    with (
        gzip.GzipFile("", "wb", FASTER, file, MADE) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, content in _texts(bundle).items():
            _add(tar, name, content, executable=name.startswith("bin/"))
        for name, path in files.items():
            _add(tar, name, path.read_bytes())


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, executable: bool = False) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), MADE, 0o755 if executable else 0o644
    tar.addfile(entry, io.BytesIO(content))


def _texts(bundle: Bundle) -> dict[str, bytes]:
    """What makes an environment of the files; who unpacks them adds ``bin/python``, a link to the guest's own."""
    texts = {
        "digest": f"{bundle.digest}\n",
        "pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = true\n",
    }
    program, home = bundle.role.value, bundle.role.home
    texts[f"bin/{program}"] = f"#!{home}/bin/python -I\nfrom {program}.cli import main\n\nmain()\n"
    return {name: text.encode() for name, text in texts.items()}


def _contents(role: Role) -> dict[str, Path]:
    """All files by their names in the archive, sorted."""
    place = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    files = {f"lib/{name}": _library(name) for name in role.libraries}
    for name, path in (*_own(role), *_foreign(role)):
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


def _foreign(role: Role) -> Iterator[tuple[str, Path]]:
    """The files of all distributions that the programs need."""
    for name in sorted(set(_needed(distribution("stackmend"), role.extras))):
        for file in distribution(name).files or ():
            yield str(file), Path(str(file.locate()))


def _needed(root: Distribution, extras: tuple[str, ...]) -> Iterator[str]:
    for line in root.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            try:
                needed = distribution(requirement.name)
            except PackageNotFoundError as e:
                raise DeployError(
                    f"{requirement.name} is missing in this installation: install it whole"
                ) from e
            yield needed.name
            yield from _needed(needed, ("", *requirement.extras))


def _library(name: str) -> Path:
    """This host's library, by the places that distributions have for them."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for place in (f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib"):
        if (path := Path(place) / name).exists():
            return path
    raise DeployError(f"{name} is missing on this host: install libbpf (apt-get install libbpf1)")


def _digest(files: Mapping[str, Path]) -> str:
    """Of the contents' sizes and times, since to read them takes as long as to pack them."""
    digest = hashlib.sha256(PARENT.encode())
    for name, path in files.items():
        status = path.stat()
        digest.update(f"\0{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
