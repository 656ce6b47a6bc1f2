"""Things that take long to make, kept outside the tree by a digest of what they are made from."""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.lab.namespace import LabError

BUILD_TIMEOUT_S, LOOK_S = 1200, 0.2
# Of each kind, those that were used last: branches may take turns.
KEPT = 3


class Store:
    """Directories named ``<kind>@<digest>``; of each kind some are kept, and all that a lab may be using.

    Built under a lock of their kind.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._used: set[Path] = set()
        self._pruning = threading.Lock()

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._readers = (self._directory / "readers.lock").open("w")
        fcntl.flock(self._readers, fcntl.LOCK_SH)
        return self

    def __exit__(self, *exc: object) -> None:
        self._readers.close()

    def ensure(self, kind: str, digest: str, build: Callable[[Path], None]) -> Path:
        """The directory of this kind and digest, which ``build`` fills if there is none yet."""
        made = self._directory / f"{kind}@{digest[:20]}"
        deadline = time.monotonic() + BUILD_TIMEOUT_S
        while not made.exists():
            with self._writing(kind) as mine:
                if mine and not made.exists():
                    self._make(made, build)
            if time.monotonic() > deadline:
                raise LabError(f"{kind}.lock is held: another run builds such an image; try again later")
            if not made.exists():
                # Somebody else makes it, perhaps in another process.
                time.sleep(LOOK_S)
        self._used.add(made)
        os.utime(made)
        with self._pruning:
            newest = sorted(
                self._directory.glob(f"{kind}@*"), key=lambda path: path.stat().st_mtime, reverse=True
            )
            if replaced := set(newest[KEPT:]) - self._used:
                self._prune(replaced)
        return made

    def _prune(self, replaced: set[Path]) -> None:
        """Drop what newer builds replaced, unless another lab may still stand on it; then a later one will."""
        try:
            fcntl.flock(self._readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for path in replaced:
                shutil.rmtree(path)
        # A conversion gives up the old lock first, also when it fails.
        fcntl.flock(self._readers, fcntl.LOCK_SH)

    def _make(self, made: Path, build: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="new.") as scratch:
            build(Path(scratch) / "content")
            (Path(scratch) / "content").rename(made)

    @contextmanager
    def _writing(self, kind: str) -> Iterator[bool]:
        """Whether nobody else builds this kind now, nor will in the block."""
        with (self._directory / f"{kind}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
