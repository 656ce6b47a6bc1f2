"""What the sample shop needs of a lab: its image, and the payments provider outside the stack."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.shop.external import ADDRESS, PORT
from tests.lab.image import ImageSpec
from tests.lab.namespace import LabError, Namespace, run

SHOP = Path(__file__).parents[2] / "examples" / "shop"
MANIFEST = SHOP / "stack.toml"
READY_S = 10


def image() -> ImageSpec:
    """The image that all containers of the shop run, as ``image.toml`` describes it."""
    described = tomllib.loads((SHOP / "image.toml").read_text())
    return ImageSpec(
        name=described["name"],
        suite=described["suite"],
        packages=tuple(described["packages"]),
        tree=SHOP / described["rootfs"],
        setup=tuple(described["setup"]),
    )


@contextmanager
def payments(namespace: Namespace) -> Iterator[None]:
    """Serve the payments provider inside a lab's namespace, at its own address."""
    run(["ip", "-n", namespace.name, "address", "add", f"{ADDRESS}/32", "dev", "lo"])
    provider = subprocess.Popen(
        namespace.enter(sys.executable, str(SHOP / "external.py")), start_new_session=True
    )
    try:
        _wait_until_listening(namespace)
        yield
    finally:
        provider.kill()
        provider.wait()
        run(["ip", "-n", namespace.name, "address", "delete", f"{ADDRESS}/32", "dev", "lo"])


def _wait_until_listening(namespace: Namespace) -> None:
    deadline = time.monotonic() + READY_S
    while not run(namespace.enter("ss", "-Htln", "src", f"{ADDRESS}:{PORT}")).strip():
        if time.monotonic() > deadline:
            raise LabError(f"{SHOP}/external.py does not listen: run it by hand and see why")
        time.sleep(0.05)
