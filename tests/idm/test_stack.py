"""A stack on this host: where its manager is, and what is issued for it."""

from pathlib import Path

import pytest

from idm.driver import Completed
from idm.home import locate
from idm.manager import Access
from idm.manifest import Manager, Manifest, Network, Vcd
from idm.manifest import Stack as StackTable
from idm.stack import Stack
from tests.idm.memory import MemoryDriver


class NoShell:
    """Runs nothing."""

    def execute(self, *_: object, **__: object) -> Completed:
        """Never to be called here."""
        raise AssertionError

    def write(self, *_: object) -> None:
        """Neither."""
        raise AssertionError


def _stack(directory: Path, manager: Manager) -> Stack:
    manifest = Manifest(
        stack=StackTable(name="shop", driver="libvirt"),
        network=Network(subnet="198.18.0.0/24"),
        vcd={
            name: Vcd(name=name, image="/i", address=f"198.18.0.{n}") for n, name in enumerate(("a", "b"), 2)
        },
        manager=manager,
    )
    home = locate("shop", ["a", "b"], state=directory / "s", run=directory / "r")
    home.create()
    return Stack(manifest, "f", home, MemoryDriver(), NoShell())


@pytest.mark.parametrize(
    ("manager", "listens"),
    [(Manager(), "198.18.0.1:7443"), (Manager(listen="198.18.9.9:99"), "198.18.9.9:99")],
)
def test_the_manager_on_this_host_listens_where_guests_reach_it(
    tmp_path: Path, manager: Manager, listens: str
) -> None:
    """Guests are told the address at which it listens by TLS; who is on this host uses its socket."""
    stack = _stack(tmp_path, manager)
    command = stack.manager().command
    assert command[command.index("--tls-ca") - 1] == listens
    assert listens.encode() in stack.payloads("a")[0].files[0].content
    assert stack.deployer() == stack.operator() == Access(stack.home.target)


def test_the_manager_in_a_vm_is_reached_by_certificates(tmp_path: Path) -> None:
    """Its VM gets it besides an agent; deployer and people show certificates of their own."""
    stack = _stack(tmp_path, Manager(vcd="b"))
    assert [payload.unit for payload in stack.payloads("b")] == [
        "stackmend-dm@shop.service",
        "stackmend-dma.service",
    ]
    assert [payload.unit for payload in stack.payloads("a")] == ["stackmend-dma.service"]
    deployer, operator = stack.deployer(), stack.operator()
    assert deployer.target == operator.target == "198.18.0.3:7443"
    assert deployer.tls is not None
    assert operator.tls is not None
    assert deployer.tls.certificate != operator.tls.certificate
