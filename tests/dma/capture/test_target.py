"""What to watch is found, and what cannot be watched is refused in one line."""

import os
from pathlib import Path

import pytest

from dma.capture.target import Target, cgroup2_root, netns_inode, opened_cgroup
from dma.flow import CaptureError


@pytest.mark.parametrize(
    ("mounts", "root"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", Path("/sys/fs/cgroup")),
        (
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            Path("/sys/fs/cgroup/unified"),
        ),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", None),
    ],
    ids=["unified", "hybrid", "legacy"],
)
def test_cgroup2_root(tmp_path: Path, mounts: str, root: Path | None) -> None:
    """The unified hierarchy is found wherever it is mounted."""
    (tmp_path / "mounts").write_text(mounts)
    assert cgroup2_root(tmp_path / "mounts") == root


def test_netns_inode() -> None:
    """A network namespace is known by the inode of its file."""
    with netns_inode(Path("/proc/self/ns/net")) as inode:
        assert inode == os.stat("/proc/self/ns/net").st_ino


@pytest.mark.parametrize("path", ["/nonexistent", "/etc/passwd", "/proc/self/ns/pid", "/"])
def test_no_netns(path: str) -> None:
    """What is no network namespace is refused, with the form that is expected."""
    with pytest.raises(CaptureError, match=r"give a path such as /proc/PID/ns/net"), netns_inode(Path(path)):
        pass


@pytest.mark.parametrize("path", ["/nonexistent", "/etc/passwd", "/tmp"])
def test_no_cgroup(path: str) -> None:
    """What is no cgroup of the unified hierarchy is refused, with the form that is expected."""
    with (
        pytest.raises(CaptureError, match="give a directory below the cgroup2 mount"),
        opened_cgroup(Path(path)),
    ):
        pass


def test_one_target() -> None:
    """A namespace and a cgroup at once are refused."""
    with pytest.raises(CaptureError, match="choose"):
        Target(netns=Path("/a"), cgroup=Path("/b"))
