"""Says what this kernel allows the agent, by trying each thing for real."""

import importlib.util
import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dma.capture import libbpf
from dma.capture.cgroup import BTF, CGROUP_HOOKS, OBJECT, TRACEPOINTS
from dma.capture.layout import Knobs
from dma.capture.libbpf import Object
from dma.capture.plans import OPENERS
from dma.capture.settings import Settings
from dma.capture.target import Target, cgroup2_root, opened_cgroup
from dma.flow import CaptureError
from dma.naming.passive import PassiveDns
from dma.netlink import Netlink, NetlinkError
from dma.sockets import NETLINK_SOCK_DIAG, connections, destroy

# linux/capability.h
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
KPROBE_EVENTS = (Path("/sys/kernel/tracing/kprobe_events"), Path("/sys/kernel/debug/tracing/kprobe_events"))


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
    for name in TRACEPOINTS + CGROUP_HOOKS:
        kind = "cgroup hook" if name in CGROUP_HOOKS else "tracepoint"
        yield _tried(f"{kind} {name}", partial(_attaches, name, root))
    yield _kprobes()
    found = importlib.util.find_spec("bcc") is not None
    yield Finding("bcc", found, "found" if found else "not found: apt-get install python3-bpfcc")
    yield _tried("socket diagnostics", lambda: f"{sum(1 for _ in connections())} established connections")
    yield _tried("destroying sockets", _destroys)
    yield _tried("passive dns", _hears_dns)


def plans() -> Iterator[Finding]:
    """Whether each plan can be opened, the best first: the first that works is the one ``auto`` takes."""
    for name, opener in OPENERS.items():
        try:
            with opener(Target(), Settings()) as capture:
                missing = [probe.name for probe in capture.probes if probe.problem]
            yield Finding(f"plan {name}", True, f"without {', '.join(missing)}" if missing else "complete")
        except CaptureError as e:
            yield Finding(f"plan {name}", False, str(e))


def _tried(subject: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, attempt())
    except (CaptureError, NetlinkError) as e:
        return Finding(subject, False, str(e))
    except OSError as e:
        return Finding(subject, False, os.strerror(e.errno or 0).lower())


def _privileges() -> Finding:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    held = {name for name, bit in CAPABILITIES.items() if effective >> bit & 1}
    bpf = "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held
    works = bpf and "CAP_NET_ADMIN" in held
    return Finding("privileges", works, ", ".join(sorted(held)) if works else libbpf.PRIVILEGE)


def _loads_libbpf() -> str:
    libbpf.library()
    return "libbpf.so.1"


def _attaches(name: str, root: Path | None) -> str:
    """Load one program alone, attach it, and take it away again."""
    knobs = Knobs(0, 0, 0, keep_loopback=False, every_socket=False, count_udp_connects=False)
    with ExitStack() as stack:
        cgroup_fd = None
        if name in CGROUP_HOOKS:
            if root is None:
                raise CaptureError("no cgroup2 file system is mounted")
            cgroup_fd = stack.enter_context(opened_cgroup(root))
        loaded = stack.enter_context(Object(OBJECT))
        loaded.load(programs=(name,), rodata=knobs.pack(), max_entries={"destinations": 1})
        loaded.attach(name, cgroup_fd)
    return "attaches"


def _kprobes() -> Finding:
    """Kprobes are looked for, not placed: no program of the agent's hangs on one yet."""
    for place in (KPROBE_PMU, *KPROBE_EVENTS):
        if _exists(place):
            return Finding("kprobes", True, str(place))
    return Finding(
        "kprobes", False, "neither a perf event source nor kprobe_events: built without CONFIG_KPROBES"
    )


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except PermissionError:
        return False


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
