"""A private podman: its own network namespace, storage and API service, which all go away with it."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.lab.bridges import steady_bridges
from tests.lab.engine import Engine, drop_cgroups, ulimits
from tests.lab.image import ImageSpec, ImageStore
from tests.lab.namespace import PREFIX, LabError, Namespace, delete, namespace, orphaned, stray
from tests.lab.processes import processes

BASE = Path("/var/tmp/stackmend-lab")
READY_S = 20
HOLDER = "holder.pid"
NETWORKS = Path("/run/containers/networks")


class PodmanLab:
    """A podman engine served at ``socket``; built images are shared with other labs, read-only.

    ``settings`` is a host configuration for ``idm --config`` that points to this engine.
    """

    netns: str
    namespace: Namespace
    directory: Path
    socket: Path
    settings: Path

    def __enter__(self) -> Self:
        if os.geteuid():
            raise LabError("the podman lab makes namespaces and containers: run it as root (sudo make test)")
        _sweep()
        with ExitStack() as stack:
            self.namespace = stack.enter_context(namespace())
            stack.enter_context(steady_bridges(self.namespace))
            self.netns = self.namespace.name
            self.directory = BASE / self.netns
            self.socket = self.directory / "podman.sock"
            self.settings = self.directory / "idm.toml"
            self.directory.mkdir()
            stack.callback(_discard, self.directory)
            self._engine = Engine(
                self.directory, stack.enter_context(_mounts(self.namespace, self.directory))
            )
            self._store = stack.enter_context(ImageStore(_cache()))
            self._engine.configure(additional=self._store.graphroot)
            self._write_settings()
            self.start_service()
            stack.callback(_empty, self._engine)
            stack.callback(self.stop_service)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def image(self, spec: ImageSpec) -> str:
        """Build or reuse an image; returns the name that containers can be made from."""
        return self._store.ensure(spec)

    def podman(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run podman's command line on this engine, inside its namespace."""
        return self._engine.podman(*arguments, check=check)

    def start_service(self) -> None:
        """Serve the API; returns when it answers."""
        command = self._engine.command("system", "service", "--time", "0", f"unix://{self.socket}")
        log = self.directory / "service.log"
        with log.open("wb") as output:
            self._service = subprocess.Popen(
                # Should this process be killed, the service goes with it.
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=self._engine.environment(),
                stdout=output,
                stderr=output,
                # Ctrl-C is for who made the lab, which then still needs the service to clean up.
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not self.socket.exists():
            if self._service.poll() is not None or time.monotonic() > deadline:
                self.stop_service()
                raise LabError(
                    f"podman's API service did not start: {log.read_text().strip() or 'it said nothing'}"
                )
            time.sleep(0.02)

    def stop_service(self) -> None:
        """Kill the API service; containers go on running."""
        self._service.kill()
        self._service.wait()
        self.socket.unlink(missing_ok=True)

    def _write_settings(self) -> None:
        self.settings.write_text(
            f'[state]\ndirectory = "{self.directory}/state"\nrun = "{self.directory}/run"\n\n'
            f'[podman]\nsocket = "{self.socket}"\nulimits = {json.dumps(list(ulimits()))}\n'
        )


def _empty(engine: Engine) -> None:
    """Remove every container and network."""
    # A container whose monitor was killed makes the first attempt fail, and is gone at the second.
    engine.podman("rm", "--all", "--force", "--time=0", check=False)
    engine.podman("rm", "--all", "--force", "--time=0")
    engine.podman("network", "prune", "--force")
    _end_monitors(engine)


def _end_monitors(engine: Engine) -> None:
    """End what watched over commands in containers: podman keeps it for minutes, and the lab's namespaces with it."""
    deadline = time.monotonic() + READY_S
    while monitors := [pid for pid, line in processes(f"{engine.directory}/").items() if "conmon " in line]:
        if time.monotonic() > deadline:
            raise LabError(f"conmon does not end: kill -9 {' '.join(map(str, monitors))}")
        for pid in monitors:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


@contextmanager
def _mounts(namespace: Namespace, directory: Path) -> Iterator[tuple[str, ...]]:
    """Hold a mount namespace in which the address book of podman's networks, at a fixed place, is this lab's own.

    Yields the prefix that enters it, and the network namespace with it.
    """
    book = directory / "addresses"
    book.mkdir()
    NETWORKS.mkdir(parents=True, exist_ok=True)
    script = 'mount --bind "$0" "$1" && echo ready && exec sleep infinity'
    holder = subprocess.Popen(
        namespace.enter("unshare", "--mount", "sh", "-c", script, str(book), str(NETWORKS)),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with holder:
        try:
            if not holder.stdout or holder.stdout.readline() != "ready\n":
                raise LabError(
                    f"could not mount over {NETWORKS}: run as root, outside of unprivileged containers"
                )
            (directory / HOLDER).write_text(str(holder.pid))
            yield _prefix(holder.pid)
        finally:
            holder.kill()


def _prefix(holder: int) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{holder}/ns/net", f"--mount=/proc/{holder}/ns/mnt")


def _discard(directory: Path) -> None:
    shutil.rmtree(directory)
    drop_cgroups()


def _sweep() -> None:
    """Clean up after labs whose process was killed."""
    BASE.mkdir(parents=True, exist_ok=True)
    with (BASE / "sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for directory in BASE.glob(f"{PREFIX}*"):
            if orphaned(directory.name):
                if holder := _holder(directory):
                    _empty(Engine(directory, _prefix(holder)))
                    os.kill(holder, signal.SIGKILL)
                _discard(directory)
        for name in stray():
            delete(name)


def _holder(directory: Path) -> int | None:
    """The process that holds a dead lab's namespaces; None when that has ended, too, whatever has its number now."""
    with suppress(FileNotFoundError):
        pid = int((directory / HOLDER).read_text())
        if Path(f"/proc/{pid}/ns/net").samefile(Namespace(directory.name).path):
            return pid
    return None


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stackmend" / "podman"
