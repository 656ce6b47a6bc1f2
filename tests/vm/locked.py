"""An image that another process writes to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(disk: Path) -> Iterator[None]:
    """Held open by QEMU's own tool, which takes the locks that a guest takes."""
    # Line by line, so that its first one tells that it has them; who looked by opening the image could keep it out.
    command = ["stdbuf", "-oL", "qemu-io", "-c", "read 0 512", "-c", "sleep 600000", str(disk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline().startswith("read")
            yield
        finally:
            other.kill()
