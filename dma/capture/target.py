"""What to watch: the whole machine, one network namespace, or one cgroup."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dma.flow import CaptureError
from dma.namespace import enter_network

OWN_NETNS = Path("/proc/self/ns/net")
NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Target:
    """At most one of the two narrows the view; with neither, all of the machine is watched."""

    netns: Path | None = None
    cgroup: Path | None = None

    def __post_init__(self) -> None:
        if self.netns and self.cgroup:
            raise CaptureError(
                "a network namespace and a cgroup cannot both be watched: choose --netns or --cgroup"
            )


def entered(*, netns: Path | None, cgroup: Path | None) -> Target:
    """What to watch, from inside its network namespace, which this thread enters.

    Its path may name another namespace later; the one that was entered is this process's own. Raises ``CaptureError``
    and ``NamespaceError``.
    """
    target = Target(netns=netns, cgroup=cgroup)
    if netns is None:
        return target
    enter_network(netns)
    return Target(netns=OWN_NETNS)


def cgroup2_root(mounts: Path = Path("/proc/self/mounts")) -> Path | None:
    """Where the unified hierarchy is mounted, if it is: /sys/fs/cgroup, or below it in a hybrid layout."""
    for line in mounts.read_text().splitlines():
        _source, mount_point, kind, *_rest = line.split()
        if kind == "cgroup2":
            return Path(mount_point)
    return None


@contextmanager
def netns_inode(path: Path) -> Iterator[int]:
    """The number that the kernel knows a network namespace by; kept open, so that no other can get the same."""
    with _opened(path, os.O_RDONLY, "give a path such as /proc/PID/ns/net or /run/netns/NAME") as fd:
        try:
            kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
        except OSError:
            kind = None
        if kind != CLONE_NEWNET:
            raise CaptureError(f"{path} is no network namespace: give a path such as /proc/PID/ns/net")
        yield os.fstat(fd).st_ino


@contextmanager
def opened_cgroup(path: Path) -> Iterator[int]:
    """A descriptor of a cgroup in the unified hierarchy."""
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY, "give a directory below the cgroup2 mount") as fd:
        if not (path / "cgroup.controllers").exists():
            raise CaptureError(
                f"{path} is no cgroup of the unified hierarchy: give a directory below the cgroup2 mount"
            )
        yield fd


def cgroup_inodes(cgroup: Path) -> frozenset[int]:
    """The numbers that the kernel knows a cgroup and those below it by."""
    return frozenset(os.stat(path).st_ino for path, _, _ in os.walk(cgroup))


@contextmanager
def _opened(path: Path, flags: int, advice: str) -> Iterator[int]:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        raise CaptureError(f"{path}: {str(e.strerror).lower()}: {advice}") from e
    try:
        yield fd
    finally:
        os.close(fd)
