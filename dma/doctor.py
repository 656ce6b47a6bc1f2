"""Says what this kernel allows the agent, by trying each thing for real."""

import importlib.util
import os
import platform
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from dma import privileges
from dma.capture import libbpf
from dma.capture.core import BTF, CoreLoader
from dma.capture.hooks import CGROUP, FENTRY, KPROBE, Hook, Kind, Plan
from dma.capture.plans import WAYS, Way
from dma.capture.probed import IPV6, check_possible, hooks_of, knobs_of, kprobes, sizes_of
from dma.capture.settings import Settings
from dma.capture.target import Target, cgroup2_root, opened_cgroup
from dma.flow import CaptureError
from dma.naming.passive import PassiveDns
from dma.netlink import Netlink, NetlinkError
from dma.sockets import NETLINK_SOCK_DIAG, connections, destroy


class Finding(NamedTuple):
    """One thing that was tried: ``detail`` says what was found, or why not."""

    subject: str
    works: bool
    detail: str


def examine() -> Iterator[Finding]:
    """All findings but those on plans, each made when it is asked for."""
    yield Finding("kernel", True, f"{platform.release()} {platform.machine()}")
    yield _privileges()
    yield Finding(
        "BTF",
        BTF.exists(),
        str(BTF) if BTF.exists() else f"{BTF} is missing: boot a kernel built with CONFIG_DEBUG_INFO_BTF",
    )
    yield _tried("libbpf", _loads_libbpf)
    root = cgroup2_root()
    yield Finding(
        "cgroup2", root is not None, str(root or "not mounted: mount -t cgroup2 none /sys/fs/cgroup")
    )
    place = kprobes()
    lacking = "neither a perf event source nor kprobe_events: boot a kernel built with CONFIG_KPROBES"
    yield Finding("kprobes", place is not None, str(place or lacking))
    without = "this kernel runs without it: its functions are left out, and all of IPv4 is counted"
    yield Finding("IPv6", IPV6.exists(), str(IPV6) if IPV6.exists() else without)
    for hook, plan in _hooks().items():
        yield _tried(f"{hook.kind.value} {hook.program}", partial(_attaches, hook, plan, root))
    found = importlib.util.find_spec("bcc") is not None
    yield Finding("bcc", found, "found" if found else "not found: apt-get install python3-bpfcc")
    yield _tried("socket diagnostics", lambda: f"{sum(1 for _ in connections())} established connections")
    yield _tried("destroying sockets", _destroys)
    yield _tried("passive dns", _hears_dns)


def try_ways() -> Iterator[tuple[Way, Finding]]:
    """Whether each plan can be opened by each loader, the best first: ``auto`` takes the first that works."""
    for way in WAYS:
        yield way, _tried(str(way), partial(_opens, way))


def shown(findings: Iterable[Finding]) -> Table:
    """For a person; a reason that was given just before is not repeated."""
    table, last = Table("", "works", "what was found", box=None), ""
    for finding in findings:
        same = not finding.works and finding.detail == last
        table.add_row(finding.subject, "yes" if finding.works else "no", '"' if same else finding.detail)
        last = finding.detail
    return table


def _opens(way: Way) -> str:
    with way.open(Target(), Settings()) as capture:
        missing = [probe.name for probe in capture.probes if probe.problem]
    return f"without {', '.join(missing)}" if missing else "complete"


def _hooks() -> dict[Hook, Plan]:
    """Every hook once, with a plan that it is part of."""
    return {hook: plan for plan in (CGROUP, FENTRY, KPROBE) for hook in hooks_of(plan)}


def _tried(subject: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, attempt())
    except (CaptureError, NetlinkError) as e:
        return Finding(subject, False, str(e))
    except OSError as e:
        return Finding(subject, False, os.strerror(e.errno or 0).lower())


def _privileges() -> Finding:
    works = privileges.suffice()
    return Finding("privileges", works, ", ".join(sorted(privileges.held())) if works else privileges.ADVICE)


def _loads_libbpf() -> str:
    libbpf.library()
    return "libbpf.so.1"


def _attaches(hook: Hook, plan: Plan, root: Path | None) -> str:
    """Load one program alone, attach it, and take it away again."""
    if hook.kind is Kind.KPROBE:
        check_possible(plan, Target())
    settings = Settings(max_entries=1, max_connections=1, max_peers=1)
    with ExitStack() as stack:
        cgroup_fd = None
        if hook.kind is Kind.CGROUP:
            if root is None:
                raise CaptureError("no cgroup2 file system is mounted")
            cgroup_fd = stack.enter_context(opened_cgroup(root))
        knobs, sizes = knobs_of(plan, settings), sizes_of(plan, settings)
        loaded = CoreLoader().load(stack, (hook,), knobs, sizes)
        if hook.program in loaded.problems:
            raise CaptureError(loaded.problems[hook.program])
        loaded.attach(hook.program, cgroup_fd)
    return "attaches"


def _hears_dns() -> str:
    """Open the packet sockets."""
    passive = PassiveDns()
    passive.close()
    if passive.counters.problem:
        raise CaptureError(passive.counters.problem)
    return "packet sockets open"


def _destroys() -> str:
    """Destroy a connection of our own over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        port = client.getsockname()[1]
        own = next((found for found in connections() if found.local_port == port), None)
        with Netlink(NETLINK_SOCK_DIAG) as netlink:
            if own is None or not destroy(netlink, own):
                raise CaptureError("a connection of our own was not found")
    return "works"
