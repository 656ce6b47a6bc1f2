"""Where the sample shop runs: containers of a private podman, or guests of a private libvirtd."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import Namespace
from tests.lab.podman import PodmanLab
from tests.lab.vm_guest import Guest

EXECUTE_S = 150
FILTER_S = 10


class Place(Protocol):
    """What a shop needs of a lab.

    ``settings`` is a configuration for ``idm --config``; by it, ``run_directory`` is where ``idm`` keeps what lives as
    long as its stacks.
    """

    namespace: Namespace
    settings: Path
    run_directory: Path

    def beside(self, *command: str) -> list[str]:
        """The command line that runs a program where the deployer has to be."""

    def execute(self, vcd: str, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run a command inside a VCD as root, however it ends."""

    def load_filter(self, vcd: str, rules: str) -> None:
        """Load a packet filter's rules in a VCD's network."""


class Containers:
    """The shop's containers."""

    def __init__(self, lab: PodmanLab) -> None:
        self.namespace, self.settings = lab.namespace, lab.settings
        self.run_directory = lab.directory / "run"
        self._lab = lab

    def beside(self, *command: str) -> list[str]:
        """On the host: manager and deployer need no network."""
        return list(command)

    def execute(self, vcd: str, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """By podman."""
        return self._lab.podman("exec", f"shop-{vcd}", *command, check=False)

    def load_filter(self, vcd: str, rules: str) -> None:
        """From outside; the image has no program for it."""
        load_filter(
            int(self._lab.podman("inspect", "--format", "{{.State.Pid}}", f"shop-{vcd}").stdout), rules
        )


class Guests:
    """The shop's guests, by VCD."""

    def __init__(self, lab: LibvirtLab, guests: Mapping[str, Guest]) -> None:
        self.namespace, self.settings = lab.namespace, lab.settings
        self.run_directory = lab.directory / "idm"
        self.lab = lab
        self._guests = guests

    def beside(self, *command: str) -> list[str]:
        """On the guests' network, where the manager listens."""
        return self.namespace.enter(*command)

    def execute(self, vcd: str, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """By the guest agent."""
        return self._guests[vcd].run(*command, check=False, timeout_s=EXECUTE_S)

    def load_filter(self, vcd: str, rules: str) -> None:
        """From inside."""
        self._guests[vcd].run("nft", rules)

    def panic(self, vcd: str) -> None:
        """Have the kernel panic."""
        self._guests[vcd].agent.start(("sh", "-c", "echo c > /proc/sysrq-trigger"))

    def suspend(self, vcd: str) -> None:
        """Stop the processors."""
        self._guests[vcd].domain.suspend()

    def power_off(self, vcd: str) -> None:
        """Take the power away."""
        self._guests[vcd].domain.destroy()


def load_filter(pid: int, rules: str) -> None:
    """Load rules of nftables in the network that a process of this machine is in."""
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-f", "-"]
    subprocess.run(enter, input=rules, text=True, check=True, timeout=FILTER_S)
