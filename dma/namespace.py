"""Entering another network namespace."""

import ctypes
import errno
import os
from pathlib import Path

CLONE_NEWNET = 0x40000000


class NamespaceError(Exception):
    """The namespace cannot be entered; the message says why and what to try."""


def enter_network(path: Path) -> None:
    """Move the calling thread, and every thread that it starts from now on, into a network namespace.

    Raises :class:`NamespaceError`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        raise NamespaceError(_refusal(path, e.errno or 0)) from e
    try:
        if libc.setns(fd, CLONE_NEWNET):
            raise NamespaceError(_refusal(path, ctypes.get_errno()))
    finally:
        os.close(fd)


def _refusal(path: Path, number: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        return f"not permitted to enter {path}: run as root, or with CAP_SYS_ADMIN"
    if number == errno.EINVAL:
        return f"{path} is no network namespace: give a path such as /proc/PID/ns/net or /run/netns/NAME"
    return f"cannot enter {path}: {os.strerror(number).lower()}: give a path such as /proc/PID/ns/net"
