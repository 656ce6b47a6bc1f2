"""One guarded shop for the stories of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples import shop
from tests.examples.guarded import GuardedShop, shop_lab
from tests.lab.podman import PodmanLab

MANY_TRIES = "\n[rollback]\nattempts_per_vcd = 100\nattempts_per_stack = 100\ncooldown_s = 1\n"


@pytest.fixture(scope="module")
def guarded(podman_lab: PodmanLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedShop]:
    """The shop, up, learned and guarded; stories may be told one after the other."""
    manifest: Path = tmp_path_factory.mktemp("shop") / "stack.toml"
    manifest.write_text(shop.MANIFEST.read_text() + MANY_TRIES)
    with shop_lab(podman_lab, manifest=manifest) as guarded:
        for command in ("up", "capture"):
            done = guarded.idm(command)
            assert done.returncode == 0, done.stdout + done.stderr
        yield guarded
