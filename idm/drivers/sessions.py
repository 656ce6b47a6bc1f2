"""What a command that ran in a container leaves among this host's processes."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROUNDS = 5


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started; parents are stopped first, so that they start nothing more."""
    if pid <= 0:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    children = []
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        kill_tree(int(child))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_monitors(session: str) -> None:
    """End conmon of a session that is over.

    Podman keeps it for five minutes, in case somebody asks for the exit status, and with it the engine's namespaces and
    cgroups, also when container and stack are long gone.
    """
    # It may be about to fork, into one that waits and one that waits for that.
    for _ in range(ROUNDS):
        monitors = list(_monitors(session))
        if not monitors:
            break
        for pid in monitors:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _monitors(session: str) -> Iterator[int]:
    argument = session.encode()
    for entry in Path("/proc").glob("[0-9]*"):
        # Processes come and go while they are listed.
        with suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if arguments[0].endswith(b"conmon") and argument in arguments:
                yield int(entry.name)
