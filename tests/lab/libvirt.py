"""A private libvirtd: its own network namespace, configuration and machines, which all go away with it."""

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Self

import libvirt

from tests.lab.namespace import PREFIX, LabError, Namespace, delete, namespace, orphaned, run
from tests.lab.processes import processes
from tests.lab.vm_golden import Golden, golden, golden_with_product, revive
from tests.lab.vm_guest import CPU, TB_CACHE_MIB, Guest, GuestSpec, Host, domain_kind
from tests.lab.vm_image import STOCK, Flavour, GuestImage, ensure_image, ensure_wheel, with_product
from tests.lab.vm_store import Store

BASE = Path("/var/tmp/stackmend-vm")
REAPER = Path(__file__).with_name("reaper.py")
BRIDGE = "br0"
READY_S = 30
END_S = 20
# Where a libvirtd keeps things whatever its configuration says; a lab mounts its own directories over them.
PLACES = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
# Guests run as root, on files that keep their owners; no labels, no cgroups, no further daemons.
QEMU = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = [ ]
namespaces = [ ]
"""


class LibvirtLab:
    """A libvirtd reached by ``uri``, and a bridge for its guests in ``namespace``; base images are shared, read-only.

    ``settings`` is a host configuration for ``idm --config`` that points to this libvirtd.
    """

    namespace: Namespace
    directory: Path
    uri: str
    settings: Path

    def __init__(self, *, gateway: str = "198.18.0.1/24") -> None:
        """``gateway`` is the bridge's own address, with the length of its network's prefix."""
        self.gateway = IPv4Interface(gateway)

    def __enter__(self) -> Self:
        if os.geteuid():
            raise LabError("the VM lab makes namespaces and guests: run it as root (sudo make test-vm)")
        _sweep()
        self._daemon: int | None = None
        self._reapers: list[subprocess.Popen[bytes]] = []
        self._connection: libvirt.virConnect | None = None
        with ExitStack() as stack:
            self.namespace = stack.enter_context(namespace())
            self.directory = BASE / self.namespace.name
            self.directory.mkdir()
            stack.callback(shutil.rmtree, self.directory)
            self.uri = f"qemu:///system?socket={self.directory}/sock/libvirt-sock"
            self.settings = self.directory / "idm.toml"
            self.host = Host(lambda: self.connection, self.directory, BRIDGE, domain_kind())
            self.store = stack.enter_context(Store(_cache()))
            self._bridge()
            self._configure()
            stack.callback(self._wait_for_reapers)
            stack.callback(_end, self.directory)
            stack.callback(self.stop_daemon)
            self.start_daemon()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    @property
    def connection(self) -> libvirt.virConnect:
        """The lab's own connection, made anew when it broke."""
        if self._connection is None or not _alive(self._connection):
            self._connection = libvirt.open(self.uri)
        return self._connection

    def image(self, flavour: Flavour = STOCK) -> GuestImage:
        """Build or reuse a base image that has all the agent needs, but not the project's own code."""
        return ensure_image(self.store, flavour)

    def product_image(self, flavour: Flavour = STOCK) -> GuestImage:
        """The same with this tree's code in it: for guests that boot from a base image with the agent inside."""
        return with_product(self.store, self.image(flavour))

    def guest(
        self,
        name: str,
        address: str,
        *,
        memory_mib: int = 256,
        flavour: Flavour = STOCK,
        product: bool = False,
        image: GuestImage | None = None,
        directory: Path | None = None,
        arguments: str = "",
    ) -> Guest:
        """A running guest with this host name and address of the lab's network; it answers commands.

        It is a copy of a guest of the flavour that once booted, with ``product`` of one that this tree's code is
        installed in, or it boots, from the ``image`` that is given, with further ``arguments`` for its kernel. Its
        disk is in ``directory``, or the lab's own.
        """
        host = self.host if directory is None else self.host._replace(directory=directory)
        interface = IPv4Interface(f"{address}/{self.gateway.network.prefixlen}")
        spec = GuestSpec(name, interface, memory_mib, flavour.measured, arguments)
        if image is None:
            base = self.image(flavour)
            kept = self._golden(base, flavour, memory_mib, product=product)
            return revive(host, spec, base, kept)
        guest = Guest(host, spec, image)
        guest.boot()
        return guest

    def guests(
        self,
        addresses: dict[str, str],
        *,
        memory_mib: int = 256,
        flavour: Flavour = STOCK,
        product: bool = False,
    ) -> list[Guest]:
        """Several at once, by name."""
        with ThreadPoolExecutor(len(addresses)) as pool:
            made = [
                pool.submit(
                    self.guest, name, address, memory_mib=memory_mib, flavour=flavour, product=product
                )
                for name, address in addresses.items()
            ]
            return [one.result() for one in made]

    def install(self, guest: Guest) -> None:
        """Install this tree's code in a guest that was made without the product."""
        guest.install(ensure_wheel(self.store))

    def start_daemon(self) -> None:
        """Start libvirtd; returns when it accepts connections. Guests of an earlier one are found again."""
        log = self.directory / "daemon.log"
        self._daemon = self._spawn(log)
        deadline = time.monotonic() + READY_S
        while not _accepts(self.directory / "sock" / "libvirt-sock"):
            if _ended(self._daemon, within_s=0.02) or time.monotonic() > deadline:
                self.stop_daemon()
                raise LabError(f"libvirtd did not start: {log.read_text().strip() or 'it said nothing'}")

    def stop_daemon(self) -> None:
        """Kill libvirtd; guests go on running."""
        if self._daemon is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._daemon, signal.SIGKILL)
            _ended(self._daemon, within_s=END_S)
            os.close(self._daemon)
            self._daemon = None
        (self.directory / "sock" / "libvirt-sock").unlink(missing_ok=True)

    def _spawn(self, log: Path) -> int:
        """Start libvirtd under a reaper of its own; returns its pidfd."""
        mounts = " && ".join(f"mount --bind {self.directory}/{own} {place}" for own, place in PLACES.items())
        daemon = f"libvirtd -f {self.directory}/libvirtd.conf -p {self.directory}/libvirtd.pid"
        inside = self.namespace.enter("unshare", "--mount", "sh", "-c", f"{mounts} && exec {daemon}")
        # Should this process be killed, the daemon goes with it; the guests wait for the next lab's sweep.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-IS", str(REAPER), *inside]
        with log.open("ab") as errors:
            reaper = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        self._reapers.append(reaper)
        assert reaper.stdout is not None
        with reaper.stdout:
            return os.pidfd_open(int(reaper.stdout.readline()))

    def _golden(self, image: GuestImage, flavour: Flavour, memory_mib: int, *, product: bool) -> Golden:
        kept = golden(self.store, self.host, image, flavour=flavour, memory_mib=memory_mib)
        if not product:
            return kept
        return golden_with_product(self.store, self.host, image, kept, flavour=flavour, memory_mib=memory_mib)

    def _wait_for_reapers(self) -> None:
        """They end with their last descendant."""
        for reaper in self._reapers:
            reaper.wait(END_S)

    def _bridge(self) -> None:
        ip = ["ip", "-n", self.namespace.name]
        run([*ip, "link", "add", BRIDGE, "type", "bridge"])
        run([*ip, "addr", "add", str(self.gateway), "dev", BRIDGE])
        run([*ip, "link", "set", BRIDGE, "up"])

    def _configure(self) -> None:
        for own, place in PLACES.items():
            Path(place).mkdir(parents=True, exist_ok=True)
            (self.directory / own).mkdir()
        (self.directory / "sock").mkdir(mode=0o700)
        (self.directory / "etc" / "qemu.conf").write_text(QEMU)
        (self.directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.directory}/sock"\nunix_sock_rw_perms = "0700"\n'
            f'auth_unix_rw = "none"\nauth_unix_ro = "none"\n'
        )
        self.settings.write_text(
            f'[state]\ndirectory = "{self.directory}/state"\nrun = "{self.directory}/idm"\n\n'
            f'[libvirt]\nuri = "{self.uri}"\ndirectory = "{self.directory}/vms"\n'
            f'cpu = "{CPU}"\ntranslations_mib = {TB_CACHE_MIB}\ndisk_cache = "unsafe"\n'
        )


def _alive(connection: libvirt.virConnect) -> bool:
    with suppress(libvirt.libvirtError):
        connection.getLibVersion()
        return True
    return False


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt, suppress(OSError):
        attempt.connect(str(path))
        return True
    return False


def _ended(process: int, *, within_s: float) -> bool:
    """Whether the process of this pidfd has ended, or does so in time."""
    return bool(select.select([process], [], [], within_s)[0])


def members(directory: Path) -> Iterable[int]:
    """The processes of a lab: whoever sees its directories in libvirt's places, be their parents alive or not."""
    mounted = f"/{directory.name}/run {PLACES['run']} "
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mounted in (process / "mountinfo").read_text():
                yield int(process.name)


def _end(directory: Path) -> None:
    """Kill a lab's processes, guests and what deploys them included, by their pids."""
    deadline = time.monotonic() + END_S
    while left := {*members(directory), *processes(f"{directory}/")}:
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} of {directory} do not end: look at what they wait for")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _sweep() -> None:
    """Clean up after labs whose process was killed."""
    BASE.mkdir(parents=True, exist_ok=True)
    with (BASE / "sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for directory in BASE.glob(f"{PREFIX}*"):
            if orphaned(directory.name):
                _end(directory)
                shutil.rmtree(directory)
                delete(directory.name)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stackmend" / "vm"


def _quiet(*_: object) -> None:
    """Errors reach the caller as exceptions; libvirt need not print them as well."""


libvirt.registerErrorHandler(_quiet, None)
