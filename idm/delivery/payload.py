"""What a guest gets so that a service of ours runs in it: files, and the unit that they are for. Pure.

One payload serves every way into a guest: the guest agent unpacks it (:mod:`idm.delivery.script`), and a seed disk
carries it for a first boot. All files belong to root, and no private one may be readable by others at any moment.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PRIVATE = 0o600
PUBLIC = 0o644


class File(NamedTuple):
    """A file of root's. One that is ``live`` is read anew by its reader, so that a change needs no restart."""

    path: str
    content: bytes
    mode: int = PRIVATE
    live: bool = False


@dataclass(frozen=True)
class Payload:
    """``files`` by absolute path, directories above them are made; then ``unit`` is enabled and runs.

    ``program`` is what the unit executes: the image has it, or it is installed before. ``unit_file`` is written below
    /etc/systemd/system, unless the guest has that unit from elsewhere.
    """

    unit: str
    unit_file: bytes
    program: str
    files: Sequence[File]


def archive(files: Sequence[File], *, suffix: str = "") -> bytes:
    """The files as a tar archive with paths relative to the root, each with the suffix."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/") + suffix)
            entry.size, entry.mode = len(file.content), file.mode
            tar.addfile(entry, io.BytesIO(file.content))
    return packed.getvalue()
