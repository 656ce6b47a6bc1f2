"""One private podman: a directory that holds its configuration and all that it stores."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.lab.namespace import LabError

CGROUPS = Path("/sys/fs/cgroup")
# What a process without CAP_SYS_RESOURCE may ask for, whatever its own limits are.
ULIMITS = ("nofile=1024:4096", "nproc=4096:4096")
CAP_SYS_RESOURCE = 24


class Engine(NamedTuple):
    """Where a podman keeps everything, and the command line prefix that puts it into its namespaces, if any."""

    directory: Path
    prefix: tuple[str, ...] = ()

    @property
    def graphroot(self) -> Path:
        """Images and containers."""
        return self.directory / "storage"

    def configure(self, *, additional: Path | None = None) -> None:
        """Write the configuration; ``additional`` is the graphroot of another engine whose images appear here, too."""
        containers = {"engine": _engine(self.directory), "network": _network(self.directory)}
        containers["containers"] = {"log_driver": "k8s-file", "default_ulimits": list(ulimits())}
        _write(self.directory / "containers.conf", containers)
        storage: dict[str, dict[str, str | list[str]]] = {
            "storage": {
                "driver": "overlay",
                "graphroot": str(self.graphroot),
                "runroot": str(self.directory / "runroot"),
            },
            "storage.options": {"additionalimagestores": [str(additional)] if additional else []},
        }
        _write(self.directory / "storage.conf", storage)

    def environment(self) -> dict[str, str]:
        """The variables that make a podman process use this engine."""
        own = {
            "CONTAINERS_CONF": f"{self.directory}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.directory}/storage.conf",
            "TMPDIR": str(self.directory),
        }
        return os.environ | own

    def command(self, *arguments: str) -> list[str]:
        """The command line of a podman process of this engine."""
        return [*self.prefix, "podman", *arguments]

    def podman(
        self, *arguments: str, check: bool = True, timeout_s: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run podman; raises LabError with its own words if it fails and ``check`` is set."""
        try:
            done = subprocess.run(
                self.command(*arguments),
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError as e:
            raise LabError(f"{e.filename} is not installed: apt-get install podman util-linux") from e
        except subprocess.TimeoutExpired as e:
            raise LabError(
                f"podman {arguments[0]}: no end after {timeout_s:.0f} s: look at the machine's load"
            ) from e
        if check and done.returncode:
            raise LabError(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def unmount(self) -> None:
        """Undo the mounts that podman keeps of its storage."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            target = line.split()[1]
            if target.startswith(f"{self.directory}/"):
                subprocess.run(["umount", target], check=True, timeout=30)


def ulimits() -> tuple[str, ...]:
    """Limits to ask for explicitly where podman's own, higher than this process's, could not be set."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return () if int(effective, 16) >> CAP_SYS_RESOURCE & 1 else ULIMITS


def drop_cgroups() -> None:
    """Remove the parent cgroups that podman makes and keeps, unless another engine's containers are in them."""
    for parent in (*CGROUPS.glob("*/libpod_parent"), CGROUPS / "libpod_parent"):
        for cgroup in (parent / "conmon", parent):
            with suppress(OSError):
                cgroup.rmdir()


def _engine(directory: Path) -> dict[str, str | list[str]]:
    settings: dict[str, str | list[str]] = {
        "events_logger": "file",
        "lock_type": "file",  # the default, a shared memory segment, is one for all engines of the machine
        "tmp_dir": f"{directory}/tmp",
    }
    # Where controllers sit in cgroup version 1 beside a version 2 without any, crun refuses to run.
    if (CGROUPS / "unified" / "cgroup.procs").exists():
        return settings | {"runtime": "runc", "cgroup_manager": "cgroupfs"}
    if not Path("/run/systemd/system").is_dir():
        return settings | {"cgroup_manager": "cgroupfs"}
    return settings


def _network(directory: Path) -> dict[str, str | list[str]]:
    return {"network_backend": "netavark", "network_config_dir": f"{directory}/networks"}


def _write(path: Path, tables: dict[str, dict[str, str | list[str]]]) -> None:
    """Write TOML; a JSON string or list of strings is TOML as well."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines) + "\n")
