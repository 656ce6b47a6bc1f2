"""Base images of virtual machines: Debian with the agent's libraries, and the sample shop's services."""

import hashlib
import shutil
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lab.image import ImageSpec, bootstrap
from tests.lab.namespace import run
from tests.lab.vm_store import Store

ROOT = Path(__file__).parents[2]
TREE, CLOUD_TREE = Path(__file__).parent / "guest", Path(__file__).parent / "cloud"
SHOP = ROOT / "examples" / "shop"
SHOP_IMAGE = tomllib.loads((SHOP / "image.toml").read_text())
# The agent runs in guests, and the manager may; the deployer runs beside the hypervisor.
EXTRAS = ("", "dm")
# What a wheel is made of.
SOURCES = ("bpf", "dm", "dma", "idm", "proto", "LICENSE", "README.md", "pyproject.toml")
SITE_PACKAGES = "/opt/stackmend/lib/python3.11/site-packages"
SETUP = "/usr/local/lib/lab/setup"
REQUIREMENTS = "usr/local/lib/lab/requirements.txt"
SUITE, PYTHON = "bookworm", "3.11"
PLATFORMS = (
    "manylinux_2_36_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
DISK_SIZE = 3 << 30
MACHINE = (
    *("linux-image-cloud-amd64", "systemd-sysv", "udev", "kmod", "dbus", "busybox-static", "cpio"),
    *("qemu-guest-agent", "python3", "iproute2", "nftables", "procps"),
)
# What the agent needs of the distribution.
SUPPORT = ("python3-venv", "libbpf1")


class Flavour(NamedTuple):
    """A kind of base image: ``packages`` beyond those that every guest has; ``shop`` adds the sample shop.

    A ``bare`` one has nothing that the agent needs but Python. A ``cloud`` one is as distributions publish them for
    clouds and for Vagrant; without a disk for it, cloud-init does nothing. ``last`` is run at the end.

    In a ``measured`` one every instruction takes equally long, wherever they are emulated: how long an emulator takes
    says little of a processor, and less while others use it.
    """

    name: str
    packages: tuple[str, ...] = ()
    shop: bool = False
    bare: bool = False
    cloud: bool = False
    last: str = ""
    measured: bool = False


STOCK = Flavour("stock", shop=True)
# The shop's image drops libraries that bcc's compiler needs, so it is one or the other.
BCC = Flavour("bcc", ("python3-bpfcc", "linux-headers-cloud-amd64"))
CLOUD = Flavour("cloud", ("cloud-init", "openssh-server", "sudo"), bare=True, cloud=True)
# With what the shop's services are made of, which a machine with a way out installs by itself.
_PARTS = "nginx postgresql redis-server"
CLOUD_SHOP = CLOUD._replace(
    name="cloud-shop",
    packages=(*CLOUD.packages, *SHOP_IMAGE["packages"]),
    last=f"systemctl --quiet unmask {_PARTS} && systemctl --quiet disable {_PARTS}",
)
# What the capture is measured beside.
BENCH = Flavour(
    "bench",
    (*BCC.packages, "bpfcc-tools", "bpftrace", "conntrack", "tcpdump", "kmod", "util-linux"),
    measured=True,
)


class GuestImage(NamedTuple):
    """A qcow2 disk to put overlays on, and the kernel and initramfs that boot it directly."""

    disk: Path
    kernel: Path
    initramfs: Path
    digest: str


def ensure_image(store: Store, flavour: Flavour) -> GuestImage:
    """The flavour's base image, built unless the store has it with the same inputs."""
    with _specified(flavour) as spec:
        digest = spec.inputs()
        return _image(store.ensure(flavour.name, digest, lambda target: _build(spec, target)), digest)


def ensure_wheel(store: Store) -> Path:
    """This tree's code as a wheel."""
    digest = hashlib.sha256()
    for path in _files():
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return next(store.ensure("wheel", digest.hexdigest(), _build_wheel).glob("*.whl"))


def with_product(store: Store, image: GuestImage) -> GuestImage:
    """The image with this tree's code installed in it."""
    wheel = ensure_wheel(store)
    digest = hashlib.sha256(f"{image.digest} {wheel.parent.name}".encode()).hexdigest()
    made = store.ensure("product", digest, lambda target: _install(image, wheel, target))
    return _image(made, digest)


def _image(directory: Path, digest: str) -> GuestImage:
    return GuestImage(directory / "disk.qcow2", directory / "vmlinuz", directory / "initramfs", digest=digest)


@contextmanager
def _specified(flavour: Flavour) -> Iterator[ImageSpec]:
    """The image's description; its tree is a temporary directory."""
    packages = MACHINE + flavour.packages + (() if flavour.bare else SUPPORT)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(TREE, tree)
        setup: tuple[str, ...] = (SETUP,)
        if flavour.cloud:
            shutil.copytree(CLOUD_TREE, tree, dirs_exist_ok=True)
            setup = ("sh", "-c", " && ".join(filter(None, (SETUP, f"{SETUP}-cloud", flavour.last))))
        if flavour.shop:
            packages += tuple(SHOP_IMAGE["packages"])
            shutil.copytree(SHOP / SHOP_IMAGE["rootfs"], tree, dirs_exist_ok=True)
        if not flavour.bare:
            (tree / REQUIREMENTS).write_text("".join(sorted(_requirements())))
        yield ImageSpec(flavour.name, packages, tree=tree, setup=setup, suite=SUITE)


def _requirements() -> Iterator[str]:
    """The lines of requirements.lock, hashes included, that the programs need at run time."""
    needed = {canonicalize_name(name) for name in _closure("stackmend", EXTRAS)}
    for block in (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines():
        if block.partition("==")[0].strip() in needed:
            yield block + "\n"


def _closure(name: str, extras: tuple[str, ...] = ("",)) -> Iterator[str]:
    """The names of what an installed distribution needs, directly or not."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement.name
            yield from _closure(requirement.name, (*requirement.extras, ""))


def _build(spec: ImageSpec, target: Path) -> None:
    """Install and set up a root file system, and make a disk of it."""
    assert spec.tree
    target.mkdir()
    if (spec.tree / REQUIREMENTS).exists():
        _download(spec.tree)
    root = target.parent / "root"
    bootstrap(spec, root)
    (next((root / "boot").glob("vmlinuz-*"))).rename(target / "vmlinuz")
    (root / "boot" / "initramfs-lab").rename(target / "initramfs")
    raw = target.parent / "disk.raw"
    with raw.open("wb") as disk:
        disk.truncate(DISK_SIZE)
    run(["mkfs.ext4", "-q", "-F", "-m0", "-d", str(root), str(raw)], timeout_s=300)
    shutil.rmtree(root)
    _compact(raw, target / "disk.qcow2")


def _download(tree: Path) -> None:
    """Put the wheels that an image needs into its tree."""
    platforms = [f"--platform={name}" for name in PLATFORMS]
    _pip(
        *("download", "--no-deps", "--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}"),
        *(*platforms, f"--dest={tree / 'var/tmp/wheels'}", f"--requirement={tree / REQUIREMENTS}"),
    )


def _build_wheel(target: Path) -> None:
    """From a copy: a build compiles the BPF object, which others may be loading from this tree."""
    tree = target.parent / "tree"
    for path in _files():
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={target}", str(tree))
    _add_compiled(next(target.glob("*.whl")), target.parent / "content")


def _add_compiled(wheel: Path, scratch: Path) -> None:
    """For a Python of the guests' version, which takes half a minute for it; another one's is passed over by them."""
    run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(scratch)])
    run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", str(scratch)])
    with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(scratch.rglob("*.pyc")):
            archive.write(path, path.relative_to(scratch))


def _install(image: GuestImage, wheel: Path, target: Path) -> None:
    """Unpack the wheel into a copy of the disk, which nobody needs to boot or mount for that."""
    target.mkdir()
    raw, tree = target.parent / "disk.raw", target.parent / "tree"
    run(["qemu-img", "convert", "-O", "raw", str(image.disk), str(raw)], timeout_s=300)
    run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tree)])
    commands = []
    for path in sorted(tree.rglob("*")):
        place = f"{SITE_PACKAGES}/{path.relative_to(tree)}"
        commands.append(f"mkdir {place}" if path.is_dir() else f"write {path} {place}")
    script = target.parent / "script"
    script.write_text("\n".join(commands) + "\n")
    run(["debugfs", "-w", "-f", str(script), str(raw)])
    _compact(raw, target / "disk.qcow2")
    for kept in (image.kernel, image.initramfs):
        shutil.copy(kept, target / kept.name)


def _compact(raw: Path, disk: Path) -> None:
    run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(disk)], timeout_s=300)
    raw.unlink()


def _files() -> Iterator[Path]:
    """The sources of the wheel, and nothing that was made from them."""
    for name in SOURCES:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            made = (
                "__pycache__" in file.parts
                or file.match("dma/capture/source/*")
                or file.name.endswith(".bpf.o")
            )
            if file.is_file() and not made:
                yield file


def _pip(*arguments: str) -> None:
    run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], timeout_s=300)
