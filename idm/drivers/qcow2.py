"""Disk images, by qemu-img: layers on a base, and what is in an image."""

import subprocess
from pathlib import Path

import msgspec

from idm.driver import DriverError

CALL_S = 60.0


class StoredSnapshot(msgspec.Struct, frozen=True, rename="kebab"):
    """A snapshot inside an image."""

    name: str
    vm_state_size: int = 0


class Image(msgspec.Struct, frozen=True, rename="kebab"):
    """An image file as qemu-img describes it."""

    filename: str
    format: str
    actual_size: int = 0
    full_backing_filename: str = ""
    snapshots: tuple[StoredSnapshot, ...] = ()


def chain(path: Path | str, *, shared: bool) -> list[Image]:
    """An image and all that it stands on. Without ``shared`` one that a process writes to is an error.

    Raises :class:`DriverError` when any of them cannot be read.
    """
    share = ["--force-share"] if shared else []
    answer = _run("info", "--backing-chain", "--output=json", *share, str(path))
    return msgspec.json.decode(answer, type=list[Image])


def create(path: Path, *, base: Path) -> None:
    """Make a layer on a base, which must not change from then on; a file that is there already is replaced."""
    kind = chain(base, shared=True)[0].format
    fresh = path.with_name(f"{path.name}.new")
    try:
        _run("create", "-q", "-f", "qcow2", "-b", str(base), "-F", kind, str(fresh))
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _run(*arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["qemu-img", *arguments],
            capture_output=True,
            timeout=CALL_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as e:
        raise DriverError("qemu-img is not installed: apt-get install qemu-utils") from e
    except subprocess.TimeoutExpired as e:
        raise DriverError(
            f"qemu-img {arguments[0]} has not ended after {CALL_S:.0f} s: look at the machine's disks"
        ) from e
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split()).removeprefix("qemu-img: ")
        raise DriverError(f"{words}: {_advice(words)}")
    return done.stdout


def _advice(words: str) -> str:
    match words:
        case _ if "lock" in words:
            return "end the process that uses it, see fuser"
        case _ if "No space left" in words:
            return "make room on that file system"
        case _ if "No such file" in words:
            return "bring it back, or name another image in the manifest"
        case _:
            return "see qemu-img check"
