"""What podman says of a stack by its labels: its containers as instances, its images as snapshots."""

from datetime import datetime
from pathlib import Path

from idm.driver import Instance, Power, Snapshot
from idm.drivers.libpod import Container, Event, Image

STACK, VCD = "stackmend.stack", "stackmend.vcd"
TAG, GOLDEN = "stackmend.snapshot", "stackmend.golden"
# When a snapshot was taken, the same for all its VCDs; podman's own times of images have whole seconds.
TAKEN = "stackmend.taken"

CGROUPS = Path("/sys/fs/cgroup")
POWER_ACTIONS = {"create", "start", "restart", "died", "stop", "pause", "unpause", "remove"}
ENDED = {"exited", "stopped"}
POWERS = {"running": Power.RUNNING, "stopping": Power.RUNNING, "paused": Power.PAUSED}


def instance_of(container: Container) -> Instance:
    """A VCD's instance. One whose process ended with a failure, or was killed, has crashed."""
    power = POWERS.get(container.state, Power.STOPPED)
    if container.state in ENDED and container.exit_code:
        power = Power.CRASHED
    incarnation = f"{container.id[:12]}.{container.started_at}.{container.pid}"
    netns = Path(f"/proc/{container.pid}/ns/net") if container.pid else None
    return Instance(vcd_of(container), power, incarnation, netns, _cgroup(container))


def snapshot_of(image: Image) -> Snapshot:
    """What an image was committed as."""
    labels = image.labels or {}
    created = datetime.fromisoformat(labels[TAKEN])
    return Snapshot(labels[VCD], labels[TAG], created, image.size, labels[GOLDEN])


def vcd_of(container: Container) -> str:
    """Whose container it is."""
    return (container.labels or {})[VCD]


def affected(event: Event) -> str | None:
    """The VCD whose power an event may have changed."""
    return event.actor.attributes.get(VCD) if event.action in POWER_ACTIONS else None


def _cgroup(container: Container) -> Path | None:
    """The container's own directory in a pure cgroup version 2; in a hybrid its processes stay in the root's."""
    if not container.pid or not (CGROUPS / "cgroup.controllers").exists():
        return None
    try:
        membership = Path(f"/proc/{container.pid}/cgroup").read_text()
    except OSError:
        return None
    path = Path(membership.strip().rpartition("::")[2])
    # The engine may have made further groups inside the container's.
    own = next((group for group in (path, *path.parents) if container.id in group.name), None)
    return CGROUPS / own.relative_to("/") if own else None
