"""A private network namespace that goes away with its lab."""

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PREFIX = "stackmend-lab-"
NAMESPACES = Path("/run/netns")
_serial = itertools.count(1)


class LabError(Exception):
    """The lab could not be set up or taken down; the message says what failed and what to try."""


class Namespace(NamedTuple):
    """A network namespace by the name that ``ip netns`` knows it by; its loopback is up and nothing else is in it."""

    name: str

    @property
    def path(self) -> Path:
        """What ``nsenter --net=`` and ``setns`` take."""
        return NAMESPACES / self.name

    def enter(self, *command: str) -> list[str]:
        """The command line that runs ``command`` inside. Unlike ``ip netns exec`` it leaves /sys as it is."""
        return ["nsenter", f"--net={self.path}", *command]


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace named after this process, and delete it at the end."""
    made = Namespace(f"{PREFIX}{os.getpid()}-{next(_serial)}")
    run(["ip", "netns", "add", made.name])
    try:
        run(["ip", "-n", made.name, "link", "set", "lo", "up"])
        yield made
    finally:
        delete(made.name)


def stray() -> list[str]:
    """The namespaces, and labs of the same name, whose process is dead."""
    if not NAMESPACES.is_dir():
        return []
    return sorted(path.name for path in NAMESPACES.glob(f"{PREFIX}*") if orphaned(path.name))


def orphaned(name: str) -> bool:
    """Whether the process that the name was made from has ended."""
    pid, _, _ = name.removeprefix(PREFIX).partition("-")
    return not Path("/proc", pid).exists()


def delete(name: str) -> None:
    """Delete a namespace; harmless when it is gone already."""
    if (NAMESPACES / name).exists():
        run(["ip", "netns", "delete", name])


def run(command: Sequence[str], *, env: dict[str, str] | None = None, timeout_s: float = 60) -> str:
    """Run a program and return its output. Raises LabError with the program's own words when it fails."""
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as e:
        raise LabError(
            f"{command[0]} is not installed: apt-get install what the Makefile's PACKAGES lists"
        ) from e
    except subprocess.TimeoutExpired as e:
        raise LabError(
            f"{' '.join(command)}: no end after {timeout_s:.0f} s: look at the machine's load"
        ) from e
    if done.returncode:
        raise LabError(
            f"{' '.join(command)}: {done.stderr.strip() or f'ended with status {done.returncode}'}"
        )
    return done.stdout
