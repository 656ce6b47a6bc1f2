"""What this process may do, as far as the agent's work depends on it."""

from pathlib import Path

STATUS = Path("/proc/self/status")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
# Distributions know stricter levels than Linux itself, at which CAP_PERFMON opens no events.
PERMISSIVE = 2

# linux/capability.h
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
ADVICE = "run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"


def held() -> frozenset[str]:
    """The capabilities that matter and are in effect."""
    effective = int(STATUS.read_text().partition("CapEff:")[2].split()[0], 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if effective >> bit & 1)


def suffice() -> bool:
    """Whether they are enough for programs in the kernel."""
    found = held()
    may_load = "CAP_SYS_ADMIN" in found or {"CAP_BPF", "CAP_PERFMON"} <= found
    return may_load and "CAP_NET_ADMIN" in found


def advice() -> str:
    """What to try when the kernel does not permit something."""
    if not suffice():
        return ADVICE
    level = int(PARANOID.read_text())
    if level > PERMISSIVE and "CAP_SYS_ADMIN" not in held():
        return (
            f"kernel.perf_event_paranoid is {level}, which keeps kprobes for CAP_SYS_ADMIN: "
            f"sysctl kernel.perf_event_paranoid={PERMISSIVE}, or --plan fentry"
        )
    return "this kernel permits it to nobody: another plan may do without"
