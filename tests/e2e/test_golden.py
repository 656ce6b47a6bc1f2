"""A golden image learned from two real launches that differ, by the commands that a user types."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.examples.guarded import GuardedShop, shop_lab
from tests.lab.podman import PodmanLab

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

CALL_WEB = 'import socket; socket.create_connection(("web", 80), 2).close()'
EDGE = "worker → web:80"


@pytest.fixture(scope="module")
def launched(podman_lab: PodmanLab) -> Iterator[GuardedShop]:
    """The shop in its second launch, learned from the first; in this one the worker has called the web server."""
    with shop_lab(podman_lab) as shop:
        for command in ("up", "capture", "down", "up"):
            idm(shop, command)
        shop.run("worker", ["python3", "-c", CALL_WEB])
        shop.until(lambda: EDGE in dm(shop, "explain", "shop"), within_s=10, what=EDGE)
        yield shop
        # The stories of other modules begin without any.
        for image in json.loads(dm(shop, "golden", "list", "--json")):
            dm(shop, "golden", "rm", image["id"])


def idm(shop: GuardedShop, *arguments: str) -> str:
    """What ``idm`` prints."""
    done = shop.idm(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dm(shop: GuardedShop, *arguments: str, status: int = 0) -> str:
    """What ``dm`` prints."""
    command = [sys.executable, "-m", "dm", *arguments]
    environment = os.environ | {"STACKMEND_DM": shop.manager}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_two_launches_that_differ_make_one_image(launched: GuardedShop) -> None:
    """What only the second had is told beforehand, becomes optional, and can be pinned; the launch counts once."""
    assert dm(launched, "golden", "diff", "shop", status=1) == f"+ {EDGE}\n"
    learned = idm(launched, "capture", "--merge")
    assert "12 edges from 2 launches" in learned
    assert "1 optional, on demand" in learned
    assert "78% of launches (95 % sure)" in learned
    again = launched.idm("capture", "--merge")
    assert "has learned from this launch already, and it counts once" in again.stderr
    newest, first = json.loads(dm(launched, "golden", "list", "shop", "--json"))
    assert (newest["runs"], newest["required"], newest["current"], first["runs"]) == (2, 11, True, 1)
    assert dm(launched, "golden", "diff", "shop") == ""
    assert dm(launched, "golden", "diff", first["id"], "shop", status=1) == f"+ {EDGE}: optional, on demand\n"
    dm(launched, "golden", "rule", "shop", "pin", "worker", "web")
    assert dm(launched, "golden", "diff", first["id"], "shop", status=1).splitlines() == [
        f"+ {EDGE}: required, on demand",
        "+ pin worker → web:*",
    ]
    idm(launched, "capture")
    assert "pin worker → web:*" in dm(launched, "explain", "shop", "web")
