"""Captures by BPF programs, whichever they are and however they were loaded."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

from dma.capture.hooks import IPV6_FUNCTIONS, Hook, Kind, Plan, Weight
from dma.capture.layout import LOSSES, Knobs
from dma.capture.libbpf import Map, Ring
from dma.capture.settings import Settings
from dma.capture.table import FlowTable
from dma.capture.talks import Talks
from dma.capture.target import Target, cgroup2_root, netns_inode, opened_cgroup
from dma.flow import CaptureError, Flow, Loss, Probe

PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
IPV6 = Path("/proc/sys/net/ipv6")
KEPT_SHARE = 4
"""So much of the room for connections may be taken by ended ones, whose places others of the same memory take over."""
KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
KPROBE_EVENTS = (Path("/sys/kernel/tracing/kprobe_events"), Path("/sys/kernel/debug/tracing/kprobe_events"))


class Loaded(Protocol):
    """The programs of a plan in the kernel, with their maps. Every method may raise ``CaptureError``."""

    problems: Mapping[str, str]
    """Why programs are missing, by their names."""

    def attach(self, program: str, cgroup_fd: int | None) -> None:
        """Have the kernel run a program, until this process ends or the loaded programs are closed."""

    def map(self, name: str) -> Map:
        """One of the maps."""

    def misses(self, program: str) -> int:
        """How often the kernel skipped a program."""


class Loader(Protocol):
    """A way to bring programs into the kernel; what it loads is closed with the stack."""

    name: str

    def load(
        self, stack: ExitStack, hooks: tuple[Hook, ...], knobs: Knobs, sizes: Mapping[str, int]
    ) -> Loaded:
        """Load the programs of these hooks, leaving out what the kernel refuses; raises ``CaptureError``."""


class ProbedCapture:
    """See ``dma.flow.Capture``; made by ``open_probed_capture``."""

    def __init__(
        self,
        plan: Plan,
        loader: str,
        loaded: Loaded,
        probes: tuple[Probe, ...],
        table: FlowTable,
        stack: ExitStack,
    ) -> None:
        self.plan = plan.name
        self.loader = loader
        self.probes = probes
        self._loaded = loaded
        self._losses = loaded.map("losses")
        self._table = table
        self._ring = Ring(loaded.map("events"))
        stack.callback(self._ring.close)
        self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def fileno(self) -> int:
        """A descriptor that polls readable when a first sighting or a failure is there."""
        return self._ring.fileno()

    def drain(self) -> int:
        """Consume what made ``fileno`` readable; returns the number of events."""
        return self._ring.consume()

    def flows(self) -> list[Flow]:
        """All destinations seen, with their counters now."""
        return self._table.flows()

    def losses(self) -> Mapping[Loss, int]:
        """Cumulative losses by reason."""
        counts = {loss: sum(self._losses.per_cpu(index)) for index, loss in enumerate(LOSSES)}
        attached = [probe.name for probe in self.probes if not probe.problem]
        counts[Loss.MISSED_PROBE] = sum(map(self._loaded.misses, attached))
        return {loss: count for loss, count in counts.items() if count}

    def clear(self) -> None:
        """Forget everything counted so far; connections still open stay counted as open."""
        self._table.clear()


def open_probed_capture(plan: Plan, loader: Loader, target: Target, settings: Settings) -> ProbedCapture:
    """Load and attach everything that this kernel allows; raises ``CaptureError`` when too little is left."""
    check_possible(plan, target)
    hooks = hooks_of(plan)
    with ExitStack() as stack:
        cgroup_fd = _cgroup(stack, plan, target)
        netns = stack.enter_context(netns_inode(target.netns)) if target.netns else 0
        knobs = knobs_of(plan, settings, netns=netns, every_socket=target.cgroup is None)
        loaded = loader.load(stack, hooks, knobs, sizes_of(plan, settings))
        probes = tuple(_attached(loaded, hook, cgroup_fd) for hook in hooks)
        for hook, probe in zip(hooks, probes, strict=True):
            if probe.problem and _is_vital(hook, target):
                raise CaptureError(probe.problem)
        talks = None if plan.peers_by_address else Talks(loaded.map("talks"), lasting_ns=knobs.talk_ns)
        table = FlowTable(loaded.map("destinations"), talks)
        return ProbedCapture(plan, loader.name, loaded, probes, table, stack)


def hooks_of(plan: Plan) -> tuple[Hook, ...]:
    """Its hooks on this kernel: one that runs without IPv6 may lack functions, and calls none of them."""
    return tuple(hook for hook in plan.hooks if IPV6.exists() or not hook.program.startswith(IPV6_FUNCTIONS))


def _is_vital(hook: Hook, target: Target) -> bool:
    """Whether nothing is left without it; nothing but their hooks tells what one cgroup's sockets call."""
    only_way = target.cgroup is not None and hook.kind is Kind.CGROUP and hook.weight is not Weight.DETAIL
    return hook.weight is Weight.NEEDED or only_way


def knobs_of(plan: Plan, settings: Settings, *, netns: int = 0, every_socket: bool = True) -> Knobs:
    """The programs' constants."""
    return Knobs(
        patience_ns=settings.patience_ms * 1_000_000,
        talk_ns=settings.talk_ms * 1_000_000,
        netns=netns,
        ephemeral_low=int(PORT_RANGE.read_text().split()[0]),
        kept=settings.max_connections // KEPT_SHARE,
        keep_loopback=settings.keep_loopback,
        every_socket=every_socket and not plan.peers_by_address,
        count_udp_connects=False,
        peers_by_address=plan.peers_by_address,
        trusted_task=False,
    )


def sizes_of(plan: Plan, settings: Settings) -> dict[str, int]:
    """How many entries each map has; those that a plan does not use exist all the same."""
    return {
        "destinations": settings.max_entries,
        "attempts": settings.max_connections,
        "peers": settings.max_peers if plan.peers_by_address else 1,
        "talks": 1 if plan.peers_by_address else settings.max_peers,
    }


def check_possible(plan: Plan, target: Target) -> None:
    """What need not be loaded to be told impossible."""
    if target.cgroup and not plan.of_kind(Kind.CGROUP):
        raise CaptureError("only its own hooks watch one cgroup: choose --plan cgroup")
    if plan.of_kind(Kind.KPROBE) and not kprobes():
        raise CaptureError("this kernel has no kprobes: boot one built with CONFIG_KPROBES")


def kprobes() -> Path | None:
    """Where the kernel takes kprobes, if it does."""
    return next((place for place in (KPROBE_PMU, *KPROBE_EVENTS) if _exists(place)), None)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except PermissionError:
        return False


def _cgroup(stack: ExitStack, plan: Plan, target: Target) -> int | None:
    """The cgroup to attach to, if the plan has anything for it and there are any."""
    cgroup = (target.cgroup or cgroup2_root()) if plan.of_kind(Kind.CGROUP) else None
    return stack.enter_context(opened_cgroup(cgroup)) if cgroup else None


def _attached(loaded: Loaded, hook: Hook, cgroup_fd: int | None) -> Probe:
    problem = loaded.problems.get(hook.program, "")
    if not problem and hook.kind is Kind.CGROUP and cgroup_fd is None:
        problem = "no cgroup2 file system is mounted"
    if not problem:
        try:
            loaded.attach(hook.program, cgroup_fd if hook.kind is Kind.CGROUP else None)
        except CaptureError as e:
            problem = str(e)
    return Probe(hook.program, problem, hook.weight is Weight.DETAIL)
