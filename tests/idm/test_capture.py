"""When a launch is learned."""

import asyncio
import itertools
from pathlib import Path

import pytest

from idm.capture import wait_until_quiet
from idm.errors import DeployError
from idm.home import locate
from idm.manifest import Capture, Manifest, Network, Vcd
from idm.manifest import Stack as StackTable
from idm.stack import Stack
from tests.idm.memory import MemoryDriver
from tests.idm.server import SmallManager


def waiting(place: Path, manager: SmallManager, settings: Capture) -> list[str]:
    """What is said until the stack is quiet."""
    home = locate("shop", ["db"], state=place / "s", run=place / "r")
    home.create()
    manifest = Manifest(
        stack=StackTable(name="shop"),
        network=Network(subnet="198.18.1.0/24"),
        vcd={"db": Vcd(image="i")},
        capture=settings,
    )
    said = list[str]()

    async def story() -> None:
        async with manager.serving(home.socket):
            await wait_until_quiet(Stack(manifest, "f", home, MemoryDriver()), said.append)

    asyncio.run(story())
    return said


def test_a_capture_says_what_it_waits_for(tmp_path: Path) -> None:
    """It ends once no new dependency has appeared for as long as is wanted; those of before are not new."""
    manager = SmallManager()
    manager.ports = iter((1, 2))
    said = waiting(tmp_path, manager, Capture(quiet_s=0.6))
    assert said == [
        "waiting until no new dependency has appeared for 0.6 s, for 30 s at most",
        "new: web → db:2",
    ]


def test_a_stack_that_never_gets_quiet_is_not_captured(tmp_path: Path) -> None:
    """Its newest dependency is named, and what can be done."""
    manager = SmallManager()
    manager.ports = itertools.count(1)
    with pytest.raises(
        DeployError, match=r"still appear after 1\.2 s \(the last is web → db:\d+\): try again"
    ):
        waiting(tmp_path, manager, Capture(quiet_s=1.0, within_s=1.2))
