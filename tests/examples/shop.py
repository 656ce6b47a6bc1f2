"""What the sample shop needs of a lab: its image, or its guests, and the payments provider outside the stack."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from examples.shop.external import ADDRESS, PORT
from idm.manifest import Manifest, load
from tests.lab.image import ImageSpec
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import LabError, Namespace, run
from tests.lab.vm_guest import Guest

SHOP = Path(__file__).parents[2] / "examples" / "shop"
MANIFEST = SHOP / "stack.toml"
GUESTS = SHOP / "guests.toml"
# Of a bridge that guests reach the payments provider through, too.
GATEWAY = "198.18.10.1/16"
# What each guest runs; the manifest cannot say it.
SERVICES = {
    "db": ("db",),
    "cache": ("cache",),
    "jobs": ("queue", "metrics", "worker"),
    "api": ("api",),
    "web": ("web", "client"),
}
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


def guests(lab: LibvirtLab, manifest: Path) -> dict[str, Guest]:
    """The VMs of a manifest, by VCD, as they run somewhere: each with its services and with the stack's names."""
    stack = load(manifest)
    made = {
        guest.name: guest
        for guest in lab.guests({vcd.domain: vcd.address for vcd in stack.vcd.values()}, product=True)
    }
    found = {name: made[vcd.domain] for name, vcd in stack.vcd.items()}
    names = _names(stack)
    with ThreadPoolExecutor(len(found)) as pool:
        list(pool.map(lambda name: _serve(found[name], SERVICES[name], names), found))
    return found


def _names(stack: Manifest) -> bytes:
    """What is in /etc/hosts of every guest."""
    lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in stack.network.hosts.items())]
    lines += [f"{vcd.address} {' '.join({name, *SERVICES[name]})}" for name, vcd in stack.vcd.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def _serve(guest: Guest, services: Sequence[str], names: bytes) -> None:
    guest.agent.write("/etc/hosts", names)
    guest.run("systemctl", "start", *(f"shop@{service}" for service in services))


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
