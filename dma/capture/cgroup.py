"""The ``cgroup`` plan: TCP by the kernel's tracepoints, UDP and unsent attempts by cgroup hooks; no kprobes needed."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from dma.capture.layout import LOSSES, Knobs
from dma.capture.libbpf import LoadError, Object, Ring
from dma.capture.settings import Settings
from dma.capture.table import FlowTable
from dma.capture.target import Target, cgroup2_root, netns_inode, opened_cgroup
from dma.flow import CaptureError, Flow, Loss, Probe

OBJECT = Path(__file__).with_name("flows.bpf.o")
BTF = Path("/sys/kernel/btf/vmlinux")
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

OUTCOMES = "inet_sock_set_state"
CONNECTED_DATAGRAMS = "sock_send_length"
# Outcomes first, so that no attempt begins whose end nobody would see.
TRACEPOINTS = (OUTCOMES, "tcp_destroy_sock", CONNECTED_DATAGRAMS, "inet_sk_error_report")
# What these add: when an attempt without a route was given up, single datagrams of connected sockets, their errors.
DETAILS = frozenset({"tcp_destroy_sock", CONNECTED_DATAGRAMS, "inet_sk_error_report"})
CGROUP_HOOKS = ("connect4", "connect6", "sendmsg4", "sendmsg6")
LEARN_SELF = "learn_self"


class CgroupCapture:
    """See ``dma.flow.Capture``; made by ``open_cgroup_capture``."""

    plan = "cgroup"
    loader = "core"

    def __init__(self, loaded: Object, probes: tuple[Probe, ...], stack: ExitStack) -> None:
        self.probes = probes
        self._object = loaded
        self._losses = loaded.map("losses")
        self._table = FlowTable(loaded.map("destinations"))
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
        counts[Loss.MISSED_PROBE] = sum(map(self._object.misses, attached))
        return {loss: count for loss, count in counts.items() if count}

    def clear(self) -> None:
        """Forget everything counted so far; connections still open stay counted as open."""
        self._table.clear()


def open_cgroup_capture(target: Target, settings: Settings) -> CgroupCapture:
    """Load and attach everything that this kernel allows; raises ``CaptureError`` when too little is left."""
    if not BTF.exists():
        raise CaptureError(
            f"this kernel has no BTF ({BTF} is missing): boot one built with CONFIG_DEBUG_INFO_BTF"
        )
    with ExitStack() as stack:
        cgroup = target.cgroup or cgroup2_root()
        cgroup_fd = stack.enter_context(opened_cgroup(cgroup)) if cgroup else None
        netns = stack.enter_context(netns_inode(target.netns)) if target.netns else 0
        loaded, problems = _load(stack, TRACEPOINTS + CGROUP_HOOKS, _knobs(target, settings, netns), settings)
        loaded.run(LEARN_SELF)
        if cgroup_fd is None:
            problems |= dict.fromkeys(CGROUP_HOOKS, "no cgroup2 file system is mounted")
        probes = tuple(_attach(loaded, problems, cgroup_fd))
        _check(probes, target)
        return CgroupCapture(loaded, probes, stack)


def _knobs(target: Target, settings: Settings, netns: int) -> Knobs:
    return Knobs(
        patience_ns=settings.patience_ms * 1_000_000,
        netns=netns,
        ephemeral_low=int(PORT_RANGE.read_text().split()[0]),
        keep_loopback=settings.keep_loopback,
        every_socket=target.cgroup is None,
        count_udp_connects=False,
    )


def _load(
    stack: ExitStack, wanted: Collection[str], knobs: Knobs, settings: Settings
) -> tuple[Object, dict[str, str]]:
    """Load what the kernel takes, leaving out each program that it refuses; returns the object and why they are out."""
    problems: dict[str, str] = {}
    while True:
        with ExitStack() as attempt:
            loaded = attempt.enter_context(Object(OBJECT))
            chosen = [LEARN_SELF, *(name for name in wanted if name not in problems)]
            constants = knobs._replace(count_udp_connects=CONNECTED_DATAGRAMS in problems)
            try:
                loaded.load(
                    programs=chosen,
                    rodata=constants.pack(),
                    max_entries={"destinations": settings.max_entries},
                )
            except LoadError as e:
                if e.program not in chosen or e.program in (LEARN_SELF, OUTCOMES):
                    raise
                problems[e.program] = str(e)
                continue
            stack.push(attempt.pop_all())
            return loaded, problems


def _attach(loaded: Object, problems: Mapping[str, str], cgroup_fd: int | None) -> Iterator[Probe]:
    for name in TRACEPOINTS + CGROUP_HOOKS:
        problem = problems.get(name, "")
        if not problem:
            try:
                loaded.attach(name, cgroup_fd if name in CGROUP_HOOKS else None)
            except CaptureError as e:
                problem = str(e)
        yield Probe(name, problem, name in DETAILS)


def _check(probes: tuple[Probe, ...], target: Target) -> None:
    """Without outcomes there is no plan; a cgroup is watched only through its own hooks."""
    needed = {OUTCOMES} | ({"connect4", "connect6"} if target.cgroup else set())
    for probe in probes:
        if probe.problem and probe.name in needed:
            raise CaptureError(probe.problem)
