"""Stacks of containers: every VCD is a podman container, a snapshot is an image committed from it."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import msgspec

from idm.driver import Completed, DriverError, Instance, Snapshot
from idm.drivers.libpod import (
    CALL_S,
    Container,
    ContainerSpec,
    Events,
    Image,
    Libpod,
    Limit,
    Network,
    NetworkOptions,
    RefusedError,
    Subnet,
)
from idm.drivers.podman_labels import (
    GOLDEN,
    STACK,
    TAG,
    TAKEN,
    VCD,
    affected,
    instance_of,
    snapshot_of,
    vcd_of,
)
from idm.drivers.sessions import end_monitors, kill_tree
from idm.manifest import Manifest, Vcd
from idm.settings import Podman

SPEC = "stackmend.spec"
REGISTRY = "localhost/stackmend"

AT_ONCE = 8
COMMIT_S = 300.0
# How long an address or a name may take to become free after its container is gone.
RELEASE_S, RELEASE_AGAIN_S = 5.0, 0.1
NOTICE_S = 2.0
# The service may restart, as at an upgrade, without the stack noticing.
RECONNECT_S, RECONNECT_AGAIN_S = 30.0, 0.5
LOG_LINES = 200
CHANGES = 5000
OUTPUT_BYTES = 256 * 1024

# What podman says while something is not free yet: a container's name, an address, the storage's name for it.
STILL_TAKEN = ("already in use", "already allocated", "is in use")
T = TypeVar("T")
KINDS = {0: "modified", 1: "added", 2: "deleted"}


class PodmanDriver:
    """Drives the containers ``<stack>-<vcd>`` through podman's API socket; see :class:`idm.driver.Driver`."""

    def __init__(self, manifest: Manifest, settings: Podman) -> None:
        self._manifest = manifest
        self._stack = manifest.stack.name
        self._limits = [_limit(text) for text in settings.ulimits]
        self._libpod = Libpod(Path(settings.socket))
        self._closing = threading.Event()
        self._subscription: Events | None = None

    def check(self) -> None:
        """Raise :class:`DriverError` unless podman answers, and is of a version that has what is needed."""
        version = self._libpod.version()
        if int(version.partition(".")[0]) < 4:
            raise DriverError(f"podman {version} is too old: install 4.0 or later")

    def prepare(self) -> None:
        """See that the images are there, and create the stack's network."""
        for image in sorted({vcd.image for vcd in self._manifest.vcd.values()}):
            if not self._libpod.has_image(image):
                raise DriverError(
                    f'image "{image}" is not in podman\'s store: build or pull it, see podman images'
                )
        subnet = self._manifest.network.subnet
        network = self._libpod.network(self._stack)
        if network is None:
            self._create_network(subnet)
        elif network.labels.get(STACK) != self._stack:
            advice = f"rename the stack, or podman network rm {self._stack}"
            raise DriverError(f'there is a network "{self._stack}" of something else: {advice}')
        elif [have.subnet for have in network.subnets] != [subnet]:
            raise DriverError(f'the network "{self._stack}" has another subnet than {subnet}: idm down first')

    def define(self, vcd: Vcd) -> None:
        """Create the container from its base image, not started, but with its namespaces, for an agent to watch."""
        try:
            container = self._libpod.create(self._spec(vcd, image=vcd.image))
            self._libpod.post(f"containers/{container}/init")
        except RefusedError as e:
            raise DriverError(
                f"{vcd.name} cannot be created: {e}: idm down removes what an earlier launch left"
            ) from e

    def start(self, vcd: str) -> None:
        """Start, or resume when paused."""
        container = self._container(vcd)
        action = "unpause" if container.state == "paused" else "start"
        with _explained(f"{vcd} cannot be started", "idm down and idm up makes it anew"):
            self._libpod.post(f"containers/{container.id}/{action}")

    def stop(self, vcd: str, *, grace_s: float = 10.0) -> None:
        """Ask to stop; force after the grace."""
        path = f"containers/{self._container(vcd).id}/stop"
        with _explained(f"{vcd} cannot be stopped", "see podman ps --all"):
            self._libpod.post(path, {"timeout": str(round(grace_s))}, timeout_s=grace_s + CALL_S)

    def destroy(self, vcd: str) -> None:
        """Kill and remove; harmless when absent."""
        for container in self._containers(vcd):
            self._remove(container)

    def instances(self) -> dict[str, Instance]:
        """All containers of this stack."""
        return {instance.vcd: instance for instance in map(instance_of, self._containers())}

    def events(self) -> Iterator[str]:
        """Yield every VCD when the subscription is made, anew after podman was away, and then whatever changes.

        To be iterated by one thread at a time.
        """
        filters = {"type": ["container"], "label": [f"{STACK}={self._stack}"]}
        deadline = time.monotonic() + RECONNECT_S
        while not self._closing.is_set():
            try:
                self._subscription = self._libpod.events(filters=filters)
            except RefusedError:
                raise
            except DriverError:
                if time.monotonic() > deadline:
                    raise
            else:
                yield from self._manifest.vcd
                if not self._closing.is_set():
                    yield from filter(None, map(affected, self._subscription))
                deadline = time.monotonic() + RECONNECT_S
            self._closing.wait(RECONNECT_AGAIN_S)

    def snapshot(self, vcds: Sequence[str], *, tag: str, golden: str) -> list[Snapshot]:
        """Commit all containers while all of them are paused."""
        containers = [self._container(vcd) for vcd in vcds]
        for vcd, container in zip(vcds, containers, strict=True):
            if container.state != "running":
                raise DriverError(
                    f"{vcd} is {container.state}, and a snapshot takes running VCDs: start it first"
                )
            if self._libpod.has_image(self._reference(vcd, tag)):
                raise DriverError(f'{vcd} has a snapshot "{tag}" already: choose another tag')
        with self._paused(containers):
            labels = {TAG: tag, GOLDEN: golden, TAKEN: datetime.now(UTC).isoformat()}
            try:
                _together(lambda container: self._commit(container, labels), containers)
            except DriverError:
                for vcd in vcds:
                    # The first failure is the one to tell.
                    with suppress(DriverError):
                        self.delete_snapshot(vcd, tag=tag)
                raise
        return [snapshot for snapshot in self.snapshots() if snapshot.tag == tag]

    def restore(self, vcd: str, *, tag: str) -> None:
        """Replace the container by one made from the snapshot, with the same name and address."""
        image = self._reference(vcd, tag)
        if not self._libpod.has_image(image):
            raise DriverError(f'{vcd} has no snapshot "{tag}": choose one that idm snapshots lists')
        spec = self._spec(self._manifest.vcd[vcd], image=image)
        self.destroy(vcd)
        with _explained(
            f'{vcd} is removed and could not be made anew from snapshot "{tag}"', "roll it back again"
        ):
            # Name and address of the removed container may take a moment to become free.
            container = self._patiently(lambda: self._libpod.create(spec))
            self._patiently(lambda: self._libpod.post(f"containers/{container}/start"))

    def snapshots(self) -> list[Snapshot]:
        """All snapshots of this stack, oldest first. Sizes include the layers that images share."""
        found = [snapshot_of(image) for image in self._images() if image.names]
        return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.vcd))

    def delete_snapshot(self, vcd: str, *, tag: str) -> None:
        """Remove one snapshot. One that a container was made from loses its name, and goes with a later deletion."""
        reference = self._reference(vcd, tag)
        try:
            self._libpod.delete(f"images/{reference}")
        except RefusedError:
            with _explained(f'snapshot "{tag}" of {vcd} cannot be deleted', "see podman images"):
                self._libpod.post(f"images/{reference}/untag")
        for image in self._images():
            if not image.names:
                with suppress(RefusedError):
                    self._libpod.delete(f"images/{image.id}")

    def evidence(self, vcd: str, directory: Path) -> list[Path]:
        """Write the inspection, the end of the log and the changed paths; nothing when there is no container."""
        containers = self._containers(vcd)
        if not containers:
            return []
        identifier = containers[0].id
        changes = [
            f"{KINDS.get(change.kind, '?')} {change.path}" for change in self._libpod.changes(identifier)
        ]
        texts = {
            "inspect.json": self._libpod.inspection(identifier),
            "log.txt": self._libpod.log(identifier, lines=LOG_LINES),
            "changes.txt": "".join(f"{change}\n" for change in changes[:CHANGES]).encode(),
        }
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_bytes(text)
        return [directory / name for name in texts]

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a command inside the VCD and wait for its end; its processes are killed when the time is up."""
        with _explained(f"{vcd} cannot run {command[0]}", "see podman ps --all and the image's files"):
            session = self._libpod.open_session(self._container(vcd).id, list(command))
            try:
                output = self._libpod.run_session(session, most=OUTPUT_BYTES, timeout_s=timeout_s)
                if output is None:
                    kill_tree(self._libpod.session(session).pid)
                status = self._ended(session)
            finally:
                end_monitors(session)
        if output is None:
            raise DriverError(
                f"{command[0]} did not end within {timeout_s:g} s in {vcd}: allow more, or see why it hangs"
            )
        return Completed(status, output.decode(errors="replace"))

    def remove(self) -> None:
        """Remove containers, then images, newest first, then the network."""
        _together(self._remove, self._containers())
        for image in sorted(self._images(), key=lambda image: image.created, reverse=True):
            self._libpod.delete(f"images/{image.id}", {"force": "true"})
        network = self._libpod.network(self._stack)
        if network is not None and network.labels.get(STACK) == self._stack:
            with _explained(f'network "{self._stack}" cannot be removed', "see podman ps --all"):
                self._libpod.delete(f"networks/{self._stack}")

    def close(self) -> None:
        """Let go of the connection, and end :meth:`events`."""
        self._closing.set()
        if self._subscription is not None:
            self._subscription.close()
        self._libpod.close()

    def _create_network(self, subnet: str) -> None:
        network = Network(
            self._stack, "bridge", [Subnet(subnet)], dns_enabled=False, labels={STACK: self._stack}
        )
        with _explained(
            f"network {subnet} cannot be created", "choose another network.subnet in the manifest"
        ):
            self._libpod.create_network(network)

    def _spec(self, vcd: Vcd, *, image: str) -> ContainerSpec:
        names = {
            name: other.address for name, other in self._manifest.vcd.items()
        } | self._manifest.network.hosts
        spec = ContainerSpec(
            name=f"{self._stack}-{vcd.name}",
            image=image,
            hostname=vcd.name,
            command=list(vcd.command),
            env=vcd.environment,
            cap_add=list(vcd.capabilities),
            r_limits=self._limits,
            netns={"nsmode": "bridge"},
            networks={self._stack: NetworkOptions([vcd.address], _mac(vcd.address))},
            hostadd=[f"{name}:{address}" for name, address in names.items()],
            labels={STACK: self._stack, VCD: vcd.name},
            image_volume_mode="ignore",
            use_image_resolve_conf=True,
        )
        digest = hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
        return msgspec.structs.replace(spec, labels=spec.labels | {SPEC: digest})

    def _reference(self, vcd: str, tag: str) -> str:
        return f"{self._repository(vcd)}:{tag}"

    def _repository(self, vcd: str) -> str:
        return f"{REGISTRY}/{self._stack}/{vcd}"

    def _containers(self, vcd: str = "") -> list[Container]:
        labels = [f"{STACK}={self._stack}"] + ([f"{VCD}={vcd}"] if vcd else [])
        return self._libpod.containers(filters={"label": labels})

    def _container(self, vcd: str) -> Container:
        containers = self._containers(vcd)
        if not containers:
            raise DriverError(f"{vcd} has no container: idm up makes it")
        return containers[0]

    def _images(self) -> list[Image]:
        """The images committed here: those under our names, and those that have lost them."""
        images = self._libpod.images(label=f"{STACK}={self._stack}")
        return [
            image for image in images if all(name.startswith(f"{REGISTRY}/") for name in image.names or ())
        ]

    def _remove(self, container: Container) -> None:
        with _explained(f"{container.names[0]} cannot be removed", f"podman rm --force {container.names[0]}"):
            self._libpod.delete(
                f"containers/{container.id}", {"force": "true", "timeout": "0", "volumes": "true"}
            )

    def _commit(self, container: Container, snapshot: Mapping[str, str]) -> None:
        vcd = vcd_of(container)
        labels = {STACK: self._stack, VCD: vcd, **snapshot}
        with _explained(f"{vcd} cannot be saved", "look at the disk space, podman system df"):
            repository = self._repository(vcd)
            self._libpod.commit(
                container.id, repository=repository, tag=snapshot[TAG], labels=labels, timeout_s=COMMIT_S
            )

    @contextmanager
    def _paused(self, containers: list[Container]) -> Iterator[None]:
        try:
            with _explained("the stack cannot be paused", "see podman ps --all"):
                _together(lambda container: self._libpod.post(f"containers/{container.id}/pause"), containers)
            yield
        finally:
            _together(self._resume, containers)

    def _resume(self, container: Container) -> None:
        try:
            self._libpod.post(f"containers/{container.id}/unpause")
        except RefusedError as e:
            if any(now.state == "paused" for now in self._containers(vcd_of(container))):
                name = container.names[0]
                raise DriverError(f"{name} stays paused, {e}: podman unpause {name}") from e

    def _ended(self, session: str) -> int:
        """Wait until podman has noticed the end of a command; returns its status."""
        deadline = time.monotonic() + NOTICE_S
        while (state := self._libpod.session(session)).running and time.monotonic() < deadline:
            self._closing.wait(RELEASE_AGAIN_S)
        return state.exit_code

    def _patiently(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + RELEASE_S
        while True:
            try:
                return call()
            except RefusedError as e:
                if time.monotonic() > deadline or not any(sign in str(e) for sign in STILL_TAKEN):
                    raise
            self._closing.wait(RELEASE_AGAIN_S)


def _mac(address: str) -> str:
    """A local hardware address for each address, so that what others have cached still holds after a restore."""
    return "02:42:" + IPv4Address(address).packed.hex(":")


def _limit(text: str) -> Limit:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    return Limit(name, int(soft), int(hard or soft))


def _together(action: Callable[[Container], None], containers: Sequence[Container]) -> None:
    """Do it for all at the same time; when all are through, raise the first failure."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for future in [pool.submit(action, container) for container in containers]:
            future.result()


@contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    """Say what was refused, and what to try; a podman that does not answer speaks for itself."""
    try:
        yield
    except RefusedError as e:
        raise DriverError(f"{what}: {e}: {advice}") from e
