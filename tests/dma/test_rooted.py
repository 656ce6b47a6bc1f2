"""Files of a machine that is not trusted."""

import os
from pathlib import Path

import pytest

from dma.rooted import LIMIT_BYTES, RootedError, read_rooted


def test_links_stay_inside(tmp_path: Path) -> None:
    """A symbolic link is resolved below the root, be it absolute or climbing."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    (root / "secret").write_text("inside")
    (root / "etc" / "absolute").symlink_to("/secret")
    (root / "etc" / "climbing").symlink_to("../../../../secret")
    assert read_rooted(root, Path("etc/absolute")) == "inside"
    assert read_rooted(root, Path("/etc/climbing")) == "inside"


def test_unfit_files_are_refused(tmp_path: Path) -> None:
    """A FIFO, a directory, a file that is too large and one that is not there are refused at once."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with open(tmp_path / "large", "wb") as large:
        large.truncate(LIMIT_BYTES + 1)
    for name in ("fifo", "directory", "large", "absent"):
        with pytest.raises(RootedError):
            read_rooted(tmp_path, Path(name))
