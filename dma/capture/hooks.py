"""The probe plans: which programs hang where, and what is lost without each. Pure."""

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """Where a program hangs."""

    TRACEPOINT = "tracepoint"
    ENTRY = "entry of"
    RETURN = "return of"
    KPROBE = "kprobe"
    CGROUP = "cgroup hook"


class Weight(enum.Enum):
    """What a plan is without a hook."""

    NEEDED = "nothing"
    USUAL = "incomplete"
    DETAIL = "as good for telling what depends on what"


class Hook(NamedTuple):
    """One program of ``bpf/flows.bpf.c``, by its name there."""

    program: str
    kind: Kind
    weight: Weight


class Plan(NamedTuple):
    """Hooks in the order in which they are attached: outcomes first, so that no attempt begins whose end nobody sees.

    ``peers_by_address`` is whether its programs know the peers of UDP sockets by the socket's address.
    """

    name: str
    hooks: tuple[Hook, ...]
    peers_by_address: bool

    def of_kind(self, kind: Kind) -> frozenset[str]:
        """The names of its programs of a kind."""
        return frozenset(hook.program for hook in self.hooks if hook.kind is kind)


OUTCOMES = "inet_sock_set_state"
RELEASES = "sock_release"

_OUTCOMES = (
    Hook(OUTCOMES, Kind.TRACEPOINT, Weight.NEEDED),
    # When an attempt without a route was given up, and ends that the first was skipped for.
    Hook("tcp_destroy_sock", Kind.TRACEPOINT, Weight.DETAIL),
)
# What ICMP said while an attempt went on, and of the datagrams of connected sockets.
_ERRORS = Hook("inet_sk_error_report", Kind.TRACEPOINT, Weight.DETAIL)

# Trampolines cost less than kprobes, and their programs know a function's arguments when it returns.
FENTRY = Plan(
    "fentry",
    (
        *_OUTCOMES,
        _ERRORS,
        # Attempts without a route, which end before there is anything to send.
        Hook("tcp_v4_connect", Kind.RETURN, Weight.USUAL),
        Hook("tcp_v6_connect", Kind.RETURN, Weight.USUAL),
        # Whose the errors of connected sockets are.
        Hook("ip4_datagram_connect", Kind.ENTRY, Weight.DETAIL),
        Hook("ip6_datagram_connect", Kind.ENTRY, Weight.DETAIL),
        Hook("tcp_connect", Kind.ENTRY, Weight.NEEDED),
        Hook("udp_sendmsg", Kind.ENTRY, Weight.NEEDED),
        Hook("udpv6_sendmsg", Kind.ENTRY, Weight.USUAL),
    ),
    peers_by_address=True,
)
KPROBE = Plan(
    "kprobe",
    (
        *_OUTCOMES,
        _ERRORS,
        Hook("tcp_v4_connect_return", Kind.KPROBE, Weight.USUAL),
        Hook("tcp_v4_connect_entry", Kind.KPROBE, Weight.USUAL),
        Hook("tcp_v6_connect_return", Kind.KPROBE, Weight.USUAL),
        Hook("tcp_v6_connect_entry", Kind.KPROBE, Weight.USUAL),
        Hook("ip4_datagram_connect_kprobe", Kind.KPROBE, Weight.DETAIL),
        Hook("ip6_datagram_connect_kprobe", Kind.KPROBE, Weight.DETAIL),
        Hook("tcp_connect_kprobe", Kind.KPROBE, Weight.NEEDED),
        Hook("udp_sendmsg_kprobe", Kind.KPROBE, Weight.NEEDED),
        Hook("udpv6_sendmsg_kprobe", Kind.KPROBE, Weight.USUAL),
    ),
    peers_by_address=True,
)
CGROUP = Plan(
    "cgroup",
    (
        *_OUTCOMES,
        _ERRORS,
        # How long connected UDP sockets last, and whether they were used.
        Hook(RELEASES, Kind.CGROUP, Weight.DETAIL),
        *(Hook(name, Kind.CGROUP, Weight.USUAL) for name in ("connect4", "connect6", "sendmsg4", "sendmsg6")),
    ),
    peers_by_address=False,
)
IPV6_FUNCTIONS = ("tcp_v6_connect", "ip6_datagram_connect", "udpv6_sendmsg")
"""What a kernel without IPv6 has not, and needs no program on."""
