"""The stack manifest: a TOML file that says which VCDs there are and how they are judged and rolled back."""

import hashlib
import re
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from idm.addresses import AddressError, assign, parse_address
from idm.document import DocumentError, read
from idm.naming import Naming

DRIVERS = ("podman", "libvirt")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Text = Annotated[str, Meta(min_length=1, description="a string in quotes, not empty")]
Share = Annotated[float, Meta(ge=0, le=1, description="a share from 0 to 1")]
Seconds = Annotated[float, Meta(gt=0, le=86400, description="seconds, above 0 and at most 86400")]
Pause = Annotated[float, Meta(ge=0, le=86400, description="seconds, from 0 to 86400")]
Milliseconds = Annotated[int, Meta(ge=100, le=2000, description="milliseconds, from 100 to 2000")]
Count = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Mebibytes = Annotated[int, Meta(ge=16, le=1 << 24, description="mebibytes, from 16 to 16777216")]
Processors = Annotated[int, Meta(ge=1, le=1024, description="a whole number from 1 to 1024")]
Capability = Annotated[str, Meta(pattern="^[A-Z][A-Z_]+$", description='a name such as "NET_ADMIN"')]
Listen = Annotated[
    str, Meta(pattern=r"^([0-9.]+:[0-9]+)?$", description='ADDRESS:PORT such as "198.18.10.1:7443"')
]
Command = Annotated[
    tuple[Text, ...], Meta(min_length=1, description='a list such as ["/bin/check", "--all"]')
]


class ManifestError(Exception):
    """The manifest cannot be used; the message names the place and what to write there."""


class Mode(Enum):
    """How far the manager may go by itself."""

    OBSERVE = "observe"
    APPROVE = "approve"
    AUTO = "auto"


class SnapshotKind(Enum):
    """What a VM is saved as: with its memory, as its disk while it is off, or as the layer below a fresh overlay."""

    MEMORY = "memory"
    OFFLINE = "offline"
    OVERLAY = "overlay"


class Delivery(Enum):
    """How the agent gets into a VM: by a seed for cloud-init, by QEMU's guest agent, or its image has it.

    ``auto`` does what the VM allows.
    """

    AUTO = "auto"
    CLOUD_INIT = "cloud-init"
    GUEST_AGENT = "guest-agent"
    IMAGE = "image"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware of a VM that is made from an image; with ``kernel`` it boots that one, not the image's own."""

    memory_mib: Mebibytes = 1024
    vcpus: Processors = 1
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    graphics: bool = False


class Vcd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One VM or container. The table's key is its name; without an address it gets a free one of the subnet.

    A VM is made from an image's file, or is an existing ``domain`` of the hypervisor. VCDs of one ``role`` are
    replicas: whoever calls one may as well call another.
    """

    name: str = ""
    image: str = ""
    domain: str = ""
    role: str = ""
    machine: Machine = Machine()
    command: tuple[str, ...] = ()
    address: str = ""
    environment: dict[str, str] = {}
    after: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    delivery: Delivery | None = None


class Stack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stack's own name, and the driver that runs it."""

    name: str
    driver: str = "podman"


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The private network that is created with the stack, and names known on it besides the VCDs' own.

    VMs may be attached to a ``bridge`` of this host, or to a ``libvirt`` network that is there, instead.
    """

    subnet: str
    bridge: str = ""
    libvirt: str = ""
    hosts: dict[str, str] = {}


class ProbePlan(Enum):
    """Where agents hook into the kernel; ``auto`` is the best that it allows. Containers need ``cgroup``."""

    AUTO = "auto"
    FENTRY = "fentry"
    KPROBE = "kprobe"
    CGROUP = "cgroup"
    NETLINK = "netlink"


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """How the agents watch and report, and how they get into VMs (a VCD's own ``delivery`` wins)."""

    interval_ms: Milliseconds = 1000
    plan: ProbePlan = ProbePlan.AUTO
    delivery: Delivery = Delivery.AUTO


class Manager(msgspec.Struct, frozen=True, kw_only=True):
    """Where the manager runs, on this host or in a ``vcd`` of the stack, and where agents in VMs reach it.

    That is ADDRESS:PORT; without it the network's gateway, or the VCD's own address.
    """

    listen: Listen = ""
    vcd: str = ""


class Judge(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds are shares of the golden edges (0 to 1); times in seconds.

    ``vcd_thresholds`` are those of single VCDs. A deviation is over once it has fallen below its threshold by
    ``hysteresis``, a share of it. An attempt fails that has been without an answer for ``patience_s``.
    """

    stack_threshold: Share = 0.20
    vcd_threshold: Share = 0.20
    vcd_thresholds: dict[str, Share] = {}
    hysteresis: Share = 0.10
    confirm_s: Seconds = 3.0
    launch_slack_s: Pause = 5.0
    patience_s: Seconds = 1.0
    count_external: bool = False


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on what is done without a person."""

    mode: Mode = Mode.AUTO
    attempts_per_vcd: Count = 2
    attempts_per_stack: Count = 4
    at_once: Count = 1
    cooldown_s: Pause = 10.0
    keep_last: Count = 5
    snapshot: SnapshotKind = SnapshotKind.MEMORY


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """When a launch is learned: once no new dependency has appeared for ``quiet_s``, if that is ``within_s``."""

    quiet_s: Seconds = 3.0
    within_s: Seconds = 30.0


class Smoke(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that exercises every dependency; run inside ``vcd``, it exits 0 when the stack answered rightly."""

    vcd: str
    command: Command
    timeout_s: Seconds = 60.0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole stack. As loaded, every VCD has its name and address, and stands behind those that it starts after."""

    stack: Stack
    network: Network
    vcd: dict[str, Vcd]
    agent: Agent = Agent()
    naming: Naming = Naming()
    manager: Manager = Manager()
    judge: Judge = Judge()
    rollback: Rollback = Rollback()
    capture: Capture = Capture()
    smoke: Smoke | None = None

    def delivery(self, vcd: str) -> Delivery:
        """How the agent gets into this VCD."""
        return self.vcd[vcd].delivery or self.agent.delivery


def load(path: Path) -> Manifest:
    """Read and check a manifest. Raises :class:`ManifestError`."""
    try:
        manifest = read(path, Manifest)
    except DocumentError as e:
        raise ManifestError(str(e)) from e
    try:
        _check_stack(manifest)
        _check_references(manifest)
        given = {name: vcd.address for name, vcd in manifest.vcd.items()}
        addresses = assign(manifest.network.subnet, given)
        order = _start_order(manifest)
    except (ManifestError, AddressError) as e:
        raise ManifestError(f"{path}: {e}") from e.__cause__
    vcds = {
        name: msgspec.structs.replace(manifest.vcd[name], name=name, address=str(addresses[name]))
        for name in order
    }
    return msgspec.structs.replace(manifest, vcd=vcds)


def fingerprint(manifest: Manifest) -> str:
    """Digest of what the stack's dependencies follow from.

    How it is judged and rolled back leaves them as they are, and so do addresses: a stack may move to another subnet.
    What a manifest does not say is left out, so that a version that knows more settings finds the same digest.
    """
    defining = {
        "stack": manifest.stack,
        "hosts": sorted(manifest.network.hosts),
        "vcd": {name: _unordered(vcd) for name, vcd in manifest.vcd.items()},
    }
    if manifest.naming.registries:
        defining["registries"] = manifest.naming.registries
    return hashlib.sha256(msgspec.json.encode(defining, order="deterministic")).hexdigest()


def _unordered(vcd: Vcd) -> Vcd:
    """Without address and the agent's way in, and with lists sorted whose order means nothing."""
    after, capabilities = tuple(sorted(vcd.after)), tuple(sorted(vcd.capabilities))
    return msgspec.structs.replace(vcd, address="", after=after, capabilities=capabilities, delivery=None)


def _check_stack(manifest: Manifest) -> None:
    _check_label(manifest.stack.name, place="stack.name")
    if manifest.stack.driver not in DRIVERS:
        drivers = ", ".join(DRIVERS)
        raise ManifestError(f'stack.driver: "{manifest.stack.driver}" is no driver: choose from {drivers}')
    check_kind = _check_machine if manifest.stack.driver == "libvirt" else _check_container
    _check_network(manifest)
    _check_manager(manifest)
    if not manifest.vcd:
        raise ManifestError("vcd: no VCDs: write a table [vcd.NAME] for each")
    for name, vcd in manifest.vcd.items():
        _check_label(name, place=f"vcd.{name}")
        if vcd.role:
            _check_label(vcd.role, place=f"vcd.{name}.role")
        check_kind(name, vcd)
        if vcd.name:
            raise ManifestError(f"vcd.{name}.name: the table's key is the name: leave this out")
        for variable in vcd.environment:
            if not VARIABLE.fullmatch(variable):
                raise ManifestError(
                    f"vcd.{name}.environment.{variable}: not a variable's name: use letters, digits and underscores"
                )
    for host, address in manifest.network.hosts.items():
        _check_host(host, address, manifest)


def _check_network(manifest: Manifest) -> None:
    network = manifest.network
    if network.bridge and network.libvirt:
        raise ManifestError("network.bridge: there is network.libvirt, too: leave one of them out")
    for key in ("bridge", "libvirt"):
        if getattr(network, key) and manifest.stack.driver != "libvirt":
            raise ManifestError(f"network.{key}: containers have a network of their own: leave this out")


def _check_manager(manifest: Manifest) -> None:
    for key in ("listen", "vcd"):
        if getattr(manifest.manager, key) and manifest.stack.driver != "libvirt":
            raise ManifestError(f"manager.{key}: the manager of containers is on this host: leave this out")
    if not (listen := manifest.manager.listen):
        return
    address, _, port = listen.partition(":")
    parse_address(address, place="manager.listen")
    if not 0 < int(port) < 1 << 16:
        raise ManifestError(f"manager.listen: {port} is no port: choose one from 1 to 65535")


def _check_container(name: str, vcd: Vcd) -> None:
    if not vcd.image:
        raise ManifestError(f"vcd.{name}.image: missing: write a string in quotes, not empty")
    _check_unused(vcd, ("domain", "machine", "delivery"), place=f"vcd.{name}", reason="a container has none")


def _check_machine(name: str, vcd: Vcd) -> None:
    place, machine = f"vcd.{name}", vcd.machine
    if bool(vcd.image) == bool(vcd.domain):
        raise ManifestError(
            f"{place}: a VM is made from an image or is an existing domain: write one of both"
        )
    _check_unused(
        vcd,
        ("command", "environment", "capabilities"),
        place=place,
        reason="a VM's image says what runs in it",
    )
    if vcd.domain:
        _check_unused(vcd, ("machine",), place=place, reason="an existing domain has its hardware")
        if vcd.delivery is Delivery.CLOUD_INIT:
            raise ManifestError(f"{place}.delivery: an existing domain has booted before: leave this out")
    paths = {"image": vcd.image, "machine.kernel": machine.kernel, "machine.initrd": machine.initrd}
    for key, path in paths.items():
        if path and not path.startswith("/"):
            raise ManifestError(f'{place}.{key}: "{path}" is no absolute path: write one that begins with /')
    if not machine.kernel and (machine.initrd or machine.cmdline):
        raise ManifestError(f"{place}.machine.kernel: missing: initrd and cmdline need it")


def _check_unused(vcd: Vcd, keys: tuple[str, ...], *, place: str, reason: str) -> None:
    for key in keys:
        if getattr(vcd, key) != getattr(Vcd(), key):
            raise ManifestError(f"{place}.{key}: {reason}: leave this out")


def _check_label(name: str, *, place: str) -> None:
    if not LABEL.fullmatch(name):
        raise ManifestError(
            f'{place}: "{name}" is no host name: use up to 63 of a-z, 0-9 and - (not at the ends)'
        )


def _check_host(host: str, address: str, manifest: Manifest) -> None:
    place = f"network.hosts.{host}"
    if len(host) > 253 or not all(LABEL.fullmatch(label) for label in host.split(".")):
        raise ManifestError(
            f'{place}: "{host}" is no host name: use a-z, 0-9 and -, with dots between the parts'
        )
    if host in manifest.vcd:
        raise ManifestError(f"{place}: a VCD has this name: leave it out, the VCDs' own names are known")
    parse_address(address, place=place)


def _check_references(manifest: Manifest) -> None:
    for name, vcd in manifest.vcd.items():
        for needed in vcd.after:
            _check_vcd(needed, manifest, place=f"vcd.{name}.after")
    if manifest.manager.vcd:
        _check_vcd(manifest.manager.vcd, manifest, place="manager.vcd")
    for name in manifest.judge.vcd_thresholds:
        _check_vcd(name, manifest, place="judge.vcd_thresholds")
    if manifest.capture.within_s < manifest.capture.quiet_s:
        raise ManifestError("capture.within_s: less than capture.quiet_s: make it longer")
    if manifest.smoke is not None:
        _check_vcd(manifest.smoke.vcd, manifest, place="smoke.vcd")


def _check_vcd(name: str, manifest: Manifest, *, place: str) -> None:
    if name not in manifest.vcd:
        raise ManifestError(
            f'{place}: there is no VCD "{name}": choose from {", ".join(sorted(manifest.vcd))}'
        )


def _start_order(manifest: Manifest) -> list[str]:
    try:
        return list(TopologicalSorter({name: vcd.after for name, vcd in manifest.vcd.items()}).static_order())
    except CycleError as e:
        # graphlib lists a cycle from what is needed to what needs it.
        cycle = " after ".join(reversed(e.args[1]))
        raise ManifestError(f"vcd.{e.args[1][0]}.after: a cycle, {cycle}: take one of these out") from e
