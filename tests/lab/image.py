"""Debian images built from packages and a directory, kept in a store outside the tree until their inputs change."""

import fcntl
import hashlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self, TextIO

from tests.lab.engine import Engine
from tests.lab.namespace import LabError, run

BUILD_TIMEOUT_S = 900
LABEL = "stackmend.inputs"


class ImageSpec(NamedTuple):
    """What goes into the image ``localhost/<name>:latest``.

    ``tree`` is copied over the installed packages, then ``setup`` runs inside, as root. ``variant`` is mmdebstrap's:
    ``extract`` unpacks the named packages and nothing else.
    """

    name: str
    packages: tuple[str, ...]
    tree: Path | None = None
    setup: tuple[str, ...] = ()
    suite: str = "bookworm"
    variant: str = "minbase"

    def inputs(self) -> str:
        """A digest of all that the image is made of, file contents and modes included."""
        digest = hashlib.sha256(repr(self._replace(tree=None)).encode())
        tree = self.tree or Path("/nowhere")
        for path in sorted(tree.rglob("*")):
            digest.update(f"\0{path.relative_to(tree)}\0{path.lstat().st_mode:o}\0".encode())
            if path.is_symlink():
                digest.update(os.readlink(path).encode())
            elif path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()


class ImageStore:
    """An engine whose images labs read as an additional store; written under a lock.

    While it is open nobody else prunes the images that it may be using.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._engine = Engine(directory)
        self.graphroot = self._engine.graphroot

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._readers = (self._directory / "readers.lock").open("w")
        fcntl.flock(self._readers, fcntl.LOCK_SH)
        with self._writing():
            self._engine.configure()
            self._engine.podman("images", "--quiet")  # lays out a new store, which readers need to find
        return self

    def __exit__(self, *exc: object) -> None:
        self._readers.close()

    def ensure(self, spec: ImageSpec) -> str:
        """Build the image unless the store holds it with these inputs; returns its full name."""
        reference = f"localhost/{spec.name}:latest"
        inputs = spec.inputs()
        with self._writing():
            if self._label(reference) != inputs:
                with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
                    tar = Path(scratch, "image.tar")
                    bootstrap(spec, tar)
                    change = f"LABEL {LABEL}={inputs}"
                    self._engine.podman(
                        "import", "--change", change, str(tar), reference, timeout_s=BUILD_TIMEOUT_S
                    )
                self._prune()
        return reference

    def _label(self, reference: str) -> str | None:
        listed = self._engine.podman("images", "--format=json", f"--filter=reference={reference}").stdout
        images: list[dict[str, dict[str, str] | None]] = json.loads(listed)
        return (images[0].get("Labels") or {}).get(LABEL) if images else None

    def _prune(self) -> None:
        """Drop what the new image replaced, unless another lab may still run on it."""
        try:
            fcntl.flock(self._readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            self._engine.podman("image", "prune", "--force")
        # A conversion gives up the old lock first, also when it fails.
        fcntl.flock(self._readers, fcntl.LOCK_SH)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with (self._directory / "writer.lock").open("w") as lock:
            deadline = time.monotonic() + BUILD_TIMEOUT_S
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise LabError(f"{lock.name} is held: another run builds an image; try again later")
                time.sleep(0.2)
            try:
                yield
            finally:
                self._engine.unmount()


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def bootstrap(spec: ImageSpec, target: Path) -> None:
    """Write the root file system with mmdebstrap, as a tar archive or a directory, as the target's name says.

    The machine's own apt settings (a proxy, say) apply.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(run(["apt-config", "dump", "Acquire"]))
        settings.flush()
        stage = "extract" if spec.variant == "extract" else "customize"
        hooks = [f"--{stage}-hook={hook}" for hook in _hooks(spec)]
        options = [f"--variant={spec.variant}", "--mode=root", f"--aptopt={settings.name}"]
        # Documentation and translations, which no container reads.
        options += ["--dpkgopt=path-exclude=/usr/share/{doc,info,man,locale}/*"]
        options += [f"--include={','.join(spec.packages)}", *hooks]
        run(["mmdebstrap", *options, spec.suite, str(target)], timeout_s=BUILD_TIMEOUT_S)


def _hooks(spec: ImageSpec) -> list[str]:
    hooks = []
    if spec.tree:
        hooks.append(f'cp -a {shlex.quote(str(spec.tree.resolve()))}/. "$1/"')
    if spec.setup:
        hooks.append(f'chroot "$1" {shlex.join(spec.setup)}')
    # mmdebstrap brings the builder's resolver and host name along; a stack has neither.
    return [*hooks, 'rm -f "$1/etc/resolv.conf" "$1/etc/hostname"']
