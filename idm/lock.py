"""Locks between processes: a file locked by ``flock`` that names its holder, and is free once the holder is dead."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idm.errors import DeployError
from idm.process import Process, identify

_POLL_S = 0.05


@contextmanager
def lock(path: Path, *, purpose: str, wait_s: float = 0.3) -> Iterator[None]:
    """Hold the lock. Raises :class:`DeployError` that names the holder when it is not free within ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while (descriptor := _take(path)) is None:
        if time.monotonic() >= deadline:
            raise DeployError(f"process {_read_pid(path) or '?'} {purpose}: wait for it, or end it first")
        time.sleep(_POLL_S)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> Process | None:
    """The live process that holds the lock, if one does; close it after use."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return identify(pid) if (pid := _read_pid(path)) else None
    else:
        return None
    finally:
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """A locked descriptor, or none while another process holds the lock or has just unlinked the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
