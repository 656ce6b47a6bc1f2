"""The agent's values as protobuf messages."""

from collections.abc import Iterable, Mapping

from dm.v1 import agent_pb2, flow_pb2
from dma.flow import Failure, Flow, Loss, Probe, Transport
from dma.naming.name import Name, Source
from dma.presence import Presence

NAME_LIMIT = 255

_TRANSPORTS = {
    Transport.TCP: flow_pb2.TRANSPORT_TCP,
    Transport.UDP: flow_pb2.TRANSPORT_UDP,
}
_FAILURES = {
    Failure.REFUSED: flow_pb2.FAILURE_KIND_REFUSED,
    Failure.TIMED_OUT: flow_pb2.FAILURE_KIND_TIMED_OUT,
    Failure.UNREACHABLE: flow_pb2.FAILURE_KIND_UNREACHABLE,
    Failure.RESET: flow_pb2.FAILURE_KIND_RESET,
    Failure.OTHER: flow_pb2.FAILURE_KIND_OTHER,
}
_SOURCES = {
    Source.REGISTRY: flow_pb2.NAME_SOURCE_REGISTRY,
    Source.CONSUL: flow_pb2.NAME_SOURCE_CONSUL,
    Source.ETCD: flow_pb2.NAME_SOURCE_ETCD,
    Source.PASSIVE_DNS: flow_pb2.NAME_SOURCE_PASSIVE_DNS,
    Source.HOSTS_FILE: flow_pb2.NAME_SOURCE_HOSTS_FILE,
    Source.RESOLV_CONF: flow_pb2.NAME_SOURCE_RESOLV_CONF,
    Source.TLS_SNI: flow_pb2.NAME_SOURCE_TLS_SNI,
    Source.HTTP_HOST: flow_pb2.NAME_SOURCE_HTTP_HOST,
    Source.REVERSE_DNS: flow_pb2.NAME_SOURCE_REVERSE_DNS,
    Source.GREETING: flow_pb2.NAME_SOURCE_GREETING,
    Source.WELL_KNOWN_PORT: flow_pb2.NAME_SOURCE_WELL_KNOWN_PORT,
    Source.PROCESS: flow_pb2.NAME_SOURCE_PROCESS,
}
_LOSSES = {
    Loss.MAP_FULL: agent_pb2.LOSS_REASON_MAP_FULL,
    Loss.RING_FULL: agent_pb2.LOSS_REASON_RING_FULL,
    Loss.MISSED_PROBE: agent_pb2.LOSS_REASON_MISSED_PROBE,
    Loss.NAMES: agent_pb2.LOSS_REASON_NAMES,
}


ADDRESSES, LISTENERS = 256, 4096
"""So many the manager takes of one machine; those that are left out are the same ones each time."""


def edge(flow: Flow, names: Iterable[Name], *, now_ns: int) -> flow_pb2.Edge:
    """One edge; its times become ages at ``now_ns`` of the monotonic clock."""
    destination = flow.destination
    return flow_pb2.Edge(
        transport=_TRANSPORTS[destination.transport],
        address=destination.address.packed,
        port=destination.port,
        command=destination.command,
        names=[_name(name, now_ns) for name in names],
        attempts=flow.attempts,
        established=flow.established,
        open=flow.open,
        pending=flow.pending,
        cancelled=flow.cancelled,
        failures=[
            flow_pb2.FailureCount(kind=_FAILURES[kind], count=count)
            for kind, count in flow.failures.items()
            if count
        ],
        last_errno=flow.last_errno,
        first_seen_age_ms=_age_ms(flow.first_ns, now_ns),
        last_attempt_age_ms=_age_ms(flow.last_attempt_ns or flow.first_ns, now_ns),
        last_established_age_ms=_age_since(flow.last_established_ns, now_ns),
        last_failure_age_ms=_age_since(flow.last_failure_ns, now_ns),
        oldest_pending_age_ms=_age_since(flow.oldest_pending_ns if flow.pending else 0, now_ns),
        backends=[flow_pb2.Backend(address=one.address.packed, port=one.port) for one in flow.backends],
    )


def presence(value: Presence) -> agent_pb2.Presence:
    """Where the machine can be reached."""
    return agent_pb2.Presence(
        addresses=[
            address.packed for address in sorted(value.addresses, key=lambda one: one.packed)[:ADDRESSES]
        ],
        listeners=[
            agent_pb2.Listener(
                transport=_TRANSPORTS[one.transport], address=one.address.packed, port=one.port
            )
            for one in sorted(value.listeners, key=lambda one: (one.port, one.address.packed))[:LISTENERS]
        ],
    )


def probes(values: Iterable[Probe]) -> list[agent_pb2.Probe]:
    """The hooks of the plan."""
    return [agent_pb2.Probe(name=probe.name, problem=probe.problem, detail=probe.detail) for probe in values]


def coverage(losses: Mapping[Loss, int], *, overflow: int) -> agent_pb2.Coverage:
    """What was lost, by reason; ``overflow`` is the agent's own table's."""
    counts = {_LOSSES[loss]: count for loss, count in losses.items()}
    counts[agent_pb2.LOSS_REASON_TABLE_FULL] = overflow
    return agent_pb2.Coverage(
        losses=[agent_pb2.Loss(reason=reason, count=count) for reason, count in counts.items() if count > 0]
    )


def _name(name: Name, now_ns: int) -> flow_pb2.Name:
    ttl_ms = None if name.expires_s is None else max(0, int(name.expires_s * 1000) - now_ns // 1_000_000)
    return flow_pb2.Name(
        name=name.name[:NAME_LIMIT],
        source=_SOURCES[name.source],
        confidence=name.confidence,
        ttl_ms=ttl_ms,
        at_port=name.at_port,
    )


def _age_ms(then_ns: int, now_ns: int) -> int:
    return max(0, now_ns - then_ns) // 1_000_000


def _age_since(then_ns: int, now_ns: int) -> int | None:
    """Absent for what never happened."""
    return _age_ms(then_ns, now_ns) if then_ns else None
