"""A program as an archive for guests that lack it, made of this installation's own files: nothing is downloaded.

It fits a Python of the same version, machine and C library as the one that it was made with, and holds what a virtual
environment holds, and libbpf for guests that have none.
"""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from idm.delivery.contents import OWN, PARENT, Python, Role, contents
from idm.errors import DeployError

# Archives have to know no time before 1980, and an equal content is to be an equal archive.
MADE = 315532800
FASTER = 6


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


def ensure(directory: Path, role: Role, python: Python = OWN) -> Bundle:
    """The bundle of this installation; made, in some seconds, unless it is there as the installation has it now.

    Raises :class:`idm.errors.DeployError` when something is missing, or cannot be written.
    """
    files = contents(role, python)
    bundle = named(directory, role, python.abi, _digest(files))
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


def _digest(files: Mapping[str, Path]) -> str:
    """Of the contents' sizes and times, since to read them takes as long as to pack them."""
    digest = hashlib.sha256(PARENT.encode())
    for name, path in files.items():
        status = path.stat()
        digest.update(f"\0{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
