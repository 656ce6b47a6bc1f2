"""Taking a stack of VMs down: what is done in domains that stay."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from idm.delivery.agent import UNIT
from idm.down import down
from idm.driver import Completed, DriverError, Instance
from idm.home import locate
from idm.manifest import Manifest, Network, Vcd
from idm.manifest import Stack as StackTable
from idm.process import spawn
from idm.stack import Stack
from tests.idm.memory import MemoryDriver


class Shell:
    """Remembers in which guests our unit was stopped; those named in ``mute`` do not answer."""

    def __init__(self, *mute: str) -> None:
        self.mute = mute
        self.cleaned: set[str] = set()

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Takes any script for a good one."""
        assert timeout_s > 0
        assert stdin == b""
        if vcd in self.mute:
            raise DriverError(f"{vcd} cannot run {command[0]}: guest agent is not connected")
        if f"disable --now {UNIT}" in command[-1]:
            self.cleaned.add(vcd)
        return Completed(0, "")

    def write(self, *_: object) -> None:
        """Never to be called here."""
        raise AssertionError


class AwayDriver(MemoryDriver):
    """A hypervisor that is not there."""

    def instances(self) -> dict[str, Instance]:
        raise DriverError("libvirt does not answer")

    def remove(self) -> None:
        raise DriverError("libvirt does not answer")


def _stack(directory: Path, driver: MemoryDriver, shell: Shell) -> Stack:
    vcds = {name: Vcd(name=name, domain=name) for name in ("web", "db", "off", "other")}
    vcds["made"] = Vcd(name="made", image="/i")
    manifest = Manifest(
        stack=StackTable(name="shop", driver="libvirt"), network=Network(subnet="198.18.1.0/24"), vcd=vcds
    )
    home = locate("shop", list(vcds), state=directory / "s", run=directory / "r")
    home.create()
    return Stack(manifest, "f", home, driver, shell)


def test_the_agent_leaves_domains_that_stay(tmp_path: Path) -> None:
    """It is taken out of those that run and answer; others of ours are told, and no other is touched."""
    driver, shell = MemoryDriver(), Shell("db")
    for vcd in ("web", "db", "off", "made"):
        driver.start(vcd)
    driver.stop("off")
    left = asyncio.run(down(_stack(tmp_path, driver, shell), keep_snapshots=False))
    assert shell.cleaned == {"web"}
    assert sorted(line.partition(":")[0] for line in left) == [
        "db keeps its agent",
        "off keeps its agent, since it is stopped",
    ]


def test_without_a_hypervisor_what_runs_here_is_ended(tmp_path: Path) -> None:
    """The error is told after our own processes are gone."""
    stack = _stack(tmp_path, AwayDriver(), Shell())
    with spawn(stack.home.run, "dm", ["/bin/sleep", "60"]) as manager:
        with pytest.raises(DriverError, match="libvirt does not answer"):
            asyncio.run(down(stack, keep_snapshots=False))
        assert manager.ended()
