"""What several of the deployer's tests stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.idm.hypervisor import Command, two_domains


@pytest.fixture
def idm(tmp_path: Path) -> Iterator[Command]:
    """The command, where two domains run."""
    with two_domains():
        yield Command(tmp_path)
