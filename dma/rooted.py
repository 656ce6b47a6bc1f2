"""Reading files of the watched machine, which may be somebody else's: nothing there may lead out of its root."""

import ctypes
import os
import stat
from pathlib import Path

# linux/openat2.h; the system call has one number on every architecture.
SYS_OPENAT2 = 437
RESOLVE_IN_ROOT = 0x10
LIMIT_BYTES = 1024 * 1024


class RootedError(Exception):
    """The file is not there or not fit to be read."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def read_rooted(root: Path, path: Path) -> str:
    """The text of a regular file of at most 1 MiB, its symbolic links resolved as if ``root`` were ``/``.

    Raises :class:`RootedError`.
    """
    try:
        with os.fdopen(_open(root, path), encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT_BYTES:
                raise RootedError(f"{root / path} is no regular file of at most {LIMIT_BYTES} bytes")
            return file.read(LIMIT_BYTES)
    except OSError as e:
        raise RootedError(f"{root / path}: {e.strerror}") from e


def _open(root: Path, path: Path) -> int:
    # Without O_NONBLOCK a FIFO in the file's place would stop the agent.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if root == Path("/"):
        # Nothing leads out of it; and where setting setuid bits is forbidden, as to our unit, so is openat2.
        return os.open(root / path, flags)
    how = _OpenHow(flags, 0, RESOLVE_IN_ROOT)
    libc = ctypes.CDLL(None, use_errno=True)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = os.fsencode(path.relative_to("/") if path.is_absolute() else path)
        fd = libc.syscall(SYS_OPENAT2, directory, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(fd)
    finally:
        os.close(directory)
