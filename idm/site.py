"""Where a command starts: the manifest, this host's settings and the driver that they name, put together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from idm import manifest as manifests
from idm import settings as host
from idm.delivery.guest import Shell
from idm.delivery.seed import sow
from idm.driver import Driver
from idm.drivers.podman import PodmanDriver
from idm.errors import DeployError
from idm.home import locate
from idm.manifest import Manifest, Vcd
from idm.settings import Settings
from idm.stack import Stack

# No stack can have this name.
BUNDLES = ".bundles"


@contextmanager
def open_stack(manifest: Path, config: Path | None) -> Iterator[Stack]:
    """The stack of a manifest on this host; its driver is closed afterwards.

    Raises ``ManifestError``, ``SettingsError`` or :class:`idm.errors.DeployError`.
    """
    declared, settings = manifests.load(manifest), host.load(config)
    home = locate(
        declared.stack.name,
        list(declared.vcd),
        state=Path(settings.state.directory),
        run=Path(settings.state.run),
    )
    place = bundles(settings)

    def seed(vcd: Vcd, path: Path) -> bool:
        return sow(declared, vcd, path, payloads=stack.payloads, bundles=place)

    driver, guests = open_driver(declared, settings, seed)
    source = manifest.absolute()
    stack = Stack(declared, manifests.fingerprint(declared), home, driver, guests, place, source)
    try:
        yield stack
    finally:
        driver.close()


def bundles(settings: Settings) -> Path:
    """Where bundles are kept for VMs of all stacks."""
    return Path(settings.state.directory) / BUNDLES


def open_driver(
    manifest: Manifest, settings: Settings, seed: Callable[[Vcd, Path], bool]
) -> tuple[Driver, Shell | None]:
    """The driver that the manifest names, and what runs programs in its VMs; ``seed`` configures those that are made.

    Raises :class:`DeployError` when its library is not installed.
    """
    if manifest.stack.driver == "libvirt":
        try:
            # Only here: a host of containers need not have it.
            from idm.drivers.libvirt import LibvirtDriver
        except ImportError as e:
            raise DeployError(
                f"libvirt's Python binding is missing ({e}): apt-get install python3-libvirt"
            ) from e
        driver = LibvirtDriver(manifest, settings.libvirt, seed=seed)
        return driver, driver
    return PodmanDriver(manifest, settings.podman), None
