"""What this process may do, as far as the agent's work depends on it."""

from pathlib import Path

STATUS = Path("/proc/self/status")

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
