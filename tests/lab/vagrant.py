"""Vagrant in a VM lab: a box of the lab's own, and settings that keep a project on the lab's hypervisor."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import LabError, run
from tests.lab.vm_guest import CPU, KERNEL_ARGUMENTS
from tests.lab.vm_image import CLOUD, GuestImage

BOX = "lab/debian"
UP_S = 600
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
    machine.storage_pool_name = "vagrant"
    machine.storage_pool_path = {pool}
    machine.management_network_name = "lab-management"
    machine.management_network_address = "198.18.30.0/24"
    machine.management_network_mode = "none"
  end
end
"""
POOL = "<pool type='dir'><name>vagrant</name><target><path>{path}</path></target></pool>"


class Project:
    """A directory with a Vagrantfile, whose machines run in a lab."""

    def __init__(self, lab: LibvirtLab, directory: Path, vagrantfile: str) -> None:
        self.directory = directory
        self._lab = lab
        self._home = lab.directory / "vagrant"
        if not self._home.exists():
            _settle(lab, self._home)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "Vagrantfile").write_text(vagrantfile)

    def environment(self) -> dict[str, str]:
        """Offline, and with this run's own programs found first."""
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {
            "PATH": programs,
            "VAGRANT_HOME": str(self._home),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            "STACKMEND_CONFIG": str(self._lab.settings),
        }

    def inside(self, *command: str) -> list[str]:
        """The command in the lab's network namespace."""
        return self._lab.namespace.enter(*command)

    def vagrant(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """Run it to its end; returns what it said, and raises LabError with that when it fails."""
        done = subprocess.run(
            self.inside("vagrant", *arguments),
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise LabError(f"vagrant {shlex.join(arguments)}: {done.stdout}")
        return done.stdout


def _settle(lab: LibvirtLab, home: Path) -> None:
    """Vagrant's own directory, with the box in it, and a pool for the disks."""
    box = home / "boxes" / BOX.replace("/", "-VAGRANTSLASH-") / "0" / "libvirt"
    box.mkdir(parents=True)
    _make_box(lab.image(CLOUD), box)
    pool = lab.directory / "pool"
    pool.mkdir()
    settings = {
        "uri": lab.uri,
        "kind": lab.host.kind,
        "cpu": CPU,
        "memory": MEMORY_MIB,
        "pool": str(pool),
        "boot_s": UP_S,
    }
    (home / "Vagrantfile").write_text(_filled(HOME_FILE, settings))
    lab.connection.storagePoolDefineXML(POOL.format(path=pool)).create()


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
