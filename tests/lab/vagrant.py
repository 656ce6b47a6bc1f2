"""Vagrant in a VM lab: boxes of the lab's own, and settings that keep a project on the lab's hypervisor."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import LabError, run
from tests.lab.vm_guest import CPU, KERNEL_ARGUMENTS
from tests.lab.vm_image import Flavour, GuestImage

UP_S = 600
LOOK_S = 0.1
POOL = "vagrant"
MEMORY_MIB = 256
# The key that every box lets in at first; its one half is part of Vagrant.
KEY = "keys/vagrant.pub"
GEMS = Path("/usr/share/rubygems-integration/all/gems")
BOX_FILE = """\
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |machine|
    machine.kernel = {kernel}
    machine.initrd = {initramfs}
    machine.cmd_line = {arguments}
  end
end
"""
# Merged by Vagrant into every project: what the lab is, and nothing that a project would say.
HOME_FILE = """\
Vagrant.configure("2") do |config|
  config.vm.boot_timeout = {boot_s}
  config.vm.box_check_update = false
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.ssh.insert_key = false
  config.vm.provider :libvirt do |machine|
    machine.uri = {uri}
    machine.driver = {kind}
    machine.cpu_mode = "custom"
    machine.cpu_model = {cpu}
    machine.machine_type = "q35"
    machine.nested = false
    machine.memory = {memory}
    machine.cpus = 1
    machine.graphics_type = "none"
    machine.disk_driver cache: "unsafe"
    machine.storage_pool_name = {name}
    machine.storage_pool_path = {pool}
    machine.management_network_name = "lab-management"
    machine.management_network_address = "198.18.30.0/24"
    machine.management_network_mode = "none"
  end
end
"""
POOL_XML = "<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"


class Project:
    """A directory with a Vagrantfile, whose machines run in a lab. ``variables`` are for its environment."""

    def __init__(
        self,
        lab: LibvirtLab,
        directory: Path,
        vagrantfile: str,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._lab = lab
        self._home = _home(lab)
        self._variables = dict(variables or {})
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "Vagrantfile").write_text(vagrantfile)

    def environment(self) -> dict[str, str]:
        """Offline, and with this run's own programs found first."""
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {
            "PATH": programs,
            "VAGRANT_HOME": str(self._home),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            "STACKMEND_CONFIG": str(self._lab.settings),
        }
        return os.environ | settings | self._variables

    def inside(self, *command: str) -> list[str]:
        """The command in the lab's network namespace."""
        return self._lab.namespace.enter(*command)

    def vagrant(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """Run it to its end; returns what it said, and raises LabError with that when it fails."""
        with self._begin(arguments) as (process, said):
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired as e:
                raise LabError(f"vagrant {shlex.join(arguments)} does not end: {said()}") from e
            if status:
                raise LabError(f"vagrant {shlex.join(arguments)}: {said()}")
            return said()

    def interrupt(self, *arguments: str, once: Callable[[str], bool]) -> str:
        """Run it, and press Ctrl-C when ``once`` finds, by what was said so far, that it is time; returns all."""
        deadline = time.monotonic() + UP_S
        with self._begin(arguments) as (process, said):
            while not once(said()):
                if _ended(process, within_s=LOOK_S) or time.monotonic() > deadline:
                    raise LabError(f"vagrant {shlex.join(arguments)} was not interrupted: {said()}")
            os.killpg(process.pid, signal.SIGINT)
            if not _ended(process, within_s=UP_S):
                raise LabError(f"vagrant {shlex.join(arguments)} does not heed Ctrl-C: {said()}")
            return said()

    @contextmanager
    def _begin(
        self, arguments: tuple[str, ...]
    ) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[], str]]]:
        """Vagrant with a process group of its own, as a terminal gives it, and what it has said so far."""
        log = self.directory.parent / f"{self.directory.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.inside("vagrant", *arguments),
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process, lambda: log.read_text(errors="replace")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def box(lab: LibvirtLab, flavour: Flavour) -> str:
    """The name of the lab's box of this flavour."""
    name = f"lab/{flavour.name}"
    place = _home(lab) / "boxes" / name.replace("/", "-VAGRANTSLASH-") / "0" / "libvirt"
    if not place.exists():
        place.mkdir(parents=True)
        _make_box(lab.image(flavour), place)
    return name


def traces(lab: LibvirtLab, *, prefix: str, stack: str, network: str) -> list[str]:
    """Whatever is there of a project's machines, by the prefix of their names, of its network and of its stack."""
    domains = [domain.name() for domain in lab.connection.listAllDomains()]
    disks = [path.name for path in (lab.directory / "pool").iterdir()]
    networks = [found.name() for found in lab.connection.listAllNetworks()]
    places = [lab.directory / "idm" / stack, lab.directory / "vms" / stack]
    return [
        *(name for name in (*domains, *disks) if name.startswith(prefix)),
        *(f"network {name}" for name in networks if name == network),
        *(str(place) for place in places if place.exists()),
    ]


def _home(lab: LibvirtLab) -> Path:
    """Vagrant's own directory, and a pool for the disks."""
    home, pool = lab.directory / "vagrant", lab.directory / "pool"
    if not home.exists():
        home.mkdir()
        pool.mkdir()
        settings = {
            "uri": lab.uri,
            "kind": lab.host.kind,
            "cpu": CPU,
            "memory": MEMORY_MIB,
            "name": POOL,
            "pool": str(pool),
            "boot_s": UP_S,
        }
        (home / "Vagrantfile").write_text(_filled(HOME_FILE, settings))
        lab.connection.storagePoolDefineXML(POOL_XML.format(name=POOL, path=pool)).create()
    return home


def _ended(process: "subprocess.Popen[bytes]", *, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _make_box(image: GuestImage, box: Path) -> None:
    """The lab's image with Vagrant's key in it; booted with the lab's kernel, as it has no boot loader."""
    key = next(GEMS.glob(f"vagrant-2*/{KEY}"), None)
    if key is None:
        raise LabError("vagrant is not installed: apt-get install vagrant vagrant-libvirt")
    raw, script = box / "disk.raw", box / "script"
    run(["qemu-img", "convert", "-O", "raw", str(image.disk), str(raw)], timeout_s=300)
    keys = "/home/vagrant/.ssh/authorized_keys"
    owned = "".join(f"sif {keys} {field} 1000\n" for field in ("uid", "gid"))
    script.write_text(f"write {key} {keys}\n{owned}")
    run(["debugfs", "-w", "-f", str(script), str(raw)])
    run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(box / "box.img")], timeout_s=300)
    size_gib = -(-raw.stat().st_size >> 30)
    raw.unlink()
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": size_gib}
    (box / "metadata.json").write_text(json.dumps(metadata))
    boot = {"kernel": str(image.kernel), "initramfs": str(image.initramfs), "arguments": KERNEL_ARGUMENTS}
    (box / "Vagrantfile").write_text(_filled(BOX_FILE, boot))


def _filled(template: str, values: Mapping[str, object]) -> str:
    """The template with values as Ruby writes them."""
    return template.format(**{name: json.dumps(value) for name, value in values.items()})
