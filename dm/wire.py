"""Between the contract's messages and the core's values. Wrong messages raise :class:`WireError`."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dm.edge import Address, Backend, Door, EdgeKey, Failure, Flow, FlowKey, LiveEdge, NameClaim, Transport
from dm.explain import Explanation
from dm.knobs import Knob
from dm.policy import PATIENCE_S, Policy
from dm.rollback import Limits, Mode, Operation, Outcome, Phase
from dm.stack import Spec
from dm.states import EdgeState, Judged
from dm.store.sqlite import Event
from dm.v1 import agent_pb2, flow_pb2, rollback_service_pb2, stack_pb2, stack_service_pb2
from dm.vcd import Power
from dm.verdict import Judgement, Verdict

NAME_LIMIT = 255
NAMES_LIMIT = 8
BACKENDS_LIMIT = 16
COUNT_LIMIT = 1 << 48
"""Counters stop here, so that their sums fit into what answers carry."""

_TRANSPORTS = {flow_pb2.TRANSPORT_TCP: Transport.TCP, flow_pb2.TRANSPORT_UDP: Transport.UDP}
_FAILURES = {
    flow_pb2.FAILURE_KIND_REFUSED: Failure.REFUSED,
    flow_pb2.FAILURE_KIND_TIMED_OUT: Failure.TIMED_OUT,
    flow_pb2.FAILURE_KIND_UNREACHABLE: Failure.UNREACHABLE,
    flow_pb2.FAILURE_KIND_RESET: Failure.RESET,
}
_HINTS = frozenset(
    {flow_pb2.NAME_SOURCE_WELL_KNOWN_PORT, flow_pb2.NAME_SOURCE_PROCESS, flow_pb2.NAME_SOURCE_GREETING}
)
_MODES = {
    stack_pb2.ROLLBACK_MODE_UNSPECIFIED: Mode.OBSERVE,
    stack_pb2.ROLLBACK_MODE_OBSERVE: Mode.OBSERVE,
    stack_pb2.ROLLBACK_MODE_APPROVE: Mode.APPROVE,
    stack_pb2.ROLLBACK_MODE_AUTO: Mode.AUTO,
}
_POWERS = {
    Power.UNKNOWN: stack_pb2.POWER_UNSPECIFIED,
    Power.ABSENT: stack_pb2.POWER_ABSENT,
    Power.STOPPED: stack_pb2.POWER_STOPPED,
    Power.RUNNING: stack_pb2.POWER_RUNNING,
    Power.PAUSED: stack_pb2.POWER_PAUSED,
    Power.CRASHED: stack_pb2.POWER_CRASHED,
}
_POWER_OF = {value: power for power, value in _POWERS.items()}
_VERDICTS = {
    Verdict.LAUNCHING: stack_pb2.VERDICT_LAUNCHING,
    Verdict.OK: stack_pb2.VERDICT_OK,
    Verdict.DEGRADED: stack_pb2.VERDICT_DEGRADED,
    Verdict.FAILED: stack_pb2.VERDICT_FAILED,
    Verdict.INCONCLUSIVE: stack_pb2.VERDICT_INCONCLUSIVE,
}
_STATES = {
    EdgeState.WAITING: stack_pb2.EDGE_STATE_WAITING,
    EdgeState.OK: stack_pb2.EDGE_STATE_OK,
    EdgeState.FAILING: stack_pb2.EDGE_STATE_FAILING,
    EdgeState.MISSING: stack_pb2.EDGE_STATE_MISSING,
    EdgeState.RETARGETED: stack_pb2.EDGE_STATE_RETARGETED,
    EdgeState.UNEXPECTED: stack_pb2.EDGE_STATE_UNEXPECTED,
    EdgeState.TOLERATED: stack_pb2.EDGE_STATE_TOLERATED,
}
_PHASES = {
    Phase.DETECTED: rollback_service_pb2.ROLLBACK_PHASE_DETECTED,
    Phase.APPROVAL: rollback_service_pb2.ROLLBACK_PHASE_APPROVAL,
    Phase.EVIDENCE: rollback_service_pb2.ROLLBACK_PHASE_EVIDENCE,
    Phase.REVERT: rollback_service_pb2.ROLLBACK_PHASE_REVERT,
    Phase.VERIFY: rollback_service_pb2.ROLLBACK_PHASE_VERIFY,
    Phase.DONE: rollback_service_pb2.ROLLBACK_PHASE_DONE,
}
_OUTCOMES = {
    Outcome.NONE: rollback_service_pb2.ROLLBACK_OUTCOME_UNSPECIFIED,
    Outcome.RECOVERED: rollback_service_pb2.ROLLBACK_OUTCOME_RECOVERED,
    Outcome.STILL_BAD: rollback_service_pb2.ROLLBACK_OUTCOME_STILL_BAD,
    Outcome.REVERT_FAILED: rollback_service_pb2.ROLLBACK_OUTCOME_REVERT_FAILED,
    Outcome.GAVE_UP: rollback_service_pb2.ROLLBACK_OUTCOME_GAVE_UP,
    Outcome.CANCELLED: rollback_service_pb2.ROLLBACK_OUTCOME_CANCELLED,
}


class WireError(Exception):
    """A message cannot be understood; the text says which field."""


def address(packed: bytes) -> Address:
    """An address of 4 or 16 bytes."""
    try:
        return ipaddress.ip_address(packed)
    except ValueError as error:
        raise WireError(f"an address has {len(packed)} bytes; 4 or 16 are known") from error


def text(words: str) -> str:
    """What a stranger wrote, short enough to keep and fit to be printed on a terminal."""
    kept = words[:NAME_LIMIT]
    return kept if kept.isprintable() else "".join(one if one.isprintable() else "?" for one in kept)


def addresses(packed: Sequence[bytes]) -> tuple[Address, ...]:
    """Several addresses."""
    return tuple(address(one) for one in packed)


def listeners(message: agent_pb2.Presence) -> frozenset[Door]:
    """Where a machine takes calls from others, at whichever of its addresses."""
    return frozenset(
        (_TRANSPORTS[one.transport], one.port) for one in message.listeners if one.transport in _TRANSPORTS
    )


def flows(message: agent_pb2.Edges, *, source: str, now_s: float) -> Iterator[tuple[FlowKey, Flow]]:
    """An agent's edges as flows, their ages turned into times of the manager's clock."""

    def at(age_ms: int) -> float:
        return now_s - age_ms / 1000

    for edge in message.edges:
        transport = _TRANSPORTS.get(edge.transport)
        if transport is None or not 0 < edge.port <= 0xFFFF:
            raise WireError("an edge has no transport or no port between 1 and 65535")
        key = FlowKey(source, transport, address(edge.address), edge.port, text(edge.command))
        failures: dict[Failure, int] = {}
        for count in edge.failures:
            kind = _FAILURES.get(count.kind, Failure.OTHER)
            failures[kind] = min(failures.get(kind, 0) + count.count, COUNT_LIMIT)
        yield (
            key,
            Flow(
                names=tuple(_claim(name) for name in edge.names[:NAMES_LIMIT] if name.name),
                attempts=min(edge.attempts, COUNT_LIMIT),
                established=min(edge.established, COUNT_LIMIT),
                open=min(edge.open, COUNT_LIMIT),
                pending=min(edge.pending, COUNT_LIMIT),
                failures=failures,
                first_seen_s=at(edge.first_seen_age_ms),
                last_attempt_s=at(edge.last_attempt_age_ms),
                last_established_s=at(edge.last_established_age_ms)
                if edge.HasField("last_established_age_ms")
                else None,
                last_failure_s=at(edge.last_failure_age_ms) if edge.HasField("last_failure_age_ms") else None,
                oldest_pending_s=at(edge.oldest_pending_age_ms)
                if edge.HasField("oldest_pending_age_ms")
                else None,
                backends=tuple(
                    Backend(address(one.address), one.port) for one in edge.backends[:BACKENDS_LIMIT]
                ),
            ),
        )


def losses(message: agent_pb2.Coverage) -> dict[str, int]:
    """An agent's losses by reason; one that is not known here is none of those that matter."""
    known = agent_pb2.LossReason.values()
    return {
        agent_pb2.LossReason.Name(loss.reason): loss.count for loss in message.losses if loss.reason in known
    }


def spec(message: stack_pb2.StackSpec, *, now_s: float) -> tuple[Spec, Limits]:
    """A declared stack and the limits of action on it."""
    if not message.name or not message.vcds or not message.launch:
        raise WireError("a stack needs a name, a launch and at least one VCD")
    judge, rollback = message.judge, message.rollback
    policy = Policy(
        stack_threshold=judge.stack_threshold,
        vcd_threshold=judge.vcd_threshold,
        confirm_s=judge.confirm_ms / 1000,
        slack_s=judge.launch_slack_ms / 1000,
        count_external=judge.count_external,
        vcd_thresholds=dict(judge.vcd_thresholds),
        hysteresis=judge.hysteresis,
        patience_s=judge.patience_ms / 1000 if judge.HasField("patience_ms") else PATIENCE_S,
    )
    limits = Limits(
        mode=_MODES[rollback.mode],
        attempts_per_vcd=rollback.attempts_per_vcd,
        attempts_per_stack=rollback.attempts_per_stack,
        at_once=rollback.at_once,
        cooldown_ms=rollback.cooldown_ms,
    )
    vcds = {vcd.name: addresses(vcd.addresses) for vcd in message.vcds}
    launch_s = now_s - message.launch_age_ms / 1000
    replicas = {vcd.name: vcd.role for vcd in message.vcds if vcd.role}
    return Spec(message.name, message.fingerprint, vcds, policy, message.launch, launch_s, replicas), limits


def mode(value: "stack_pb2.RollbackMode.ValueType") -> Mode:
    """How far to go."""
    return _MODES[value]


def power(value: "stack_pb2.Power.ValueType") -> Power:
    """What an instance does."""
    return _POWER_OF.get(value, Power.UNKNOWN)


def power_message(value: Power) -> "stack_pb2.Power.ValueType":
    """What an instance does, for the wire."""
    return _POWERS[value]


def suspect_messages(
    suspects: Sequence[tuple[str, bool, float, tuple[str, ...]]],
) -> list[stack_pb2.Suspect]:
    """Suspects, for the wire."""
    return [
        stack_pb2.Suspect(name=name, external=external, score=score, evidence=evidence)
        for name, external, score, evidence in suspects
    ]


def status_message(
    name: str,
    judgement: Judgement,
    *,
    states: Mapping[EdgeState, int],
    golden: str,
    golden_edges: int,
    operation: str,
    launch_s: float,
    now_s: float,
) -> stack_pb2.Status:
    """A judgement, for the wire."""
    finding = judgement.finding
    message = stack_pb2.Status(
        stack=name,
        verdict=_VERDICTS[judgement.verdict],
        reasons=judgement.reasons,
        deviation=judgement.deviation,
        vcd_deviation=judgement.vcd_deviation,
        suspects=suspect_messages((*finding.culprits, *finding.others)),
        golden=golden,
        edges_ok=states.get(EdgeState.OK, 0),
        edges_golden=golden_edges,
        edges_waiting=states.get(EdgeState.WAITING, 0),
        operation=operation,
        launch_age_ms=max(0, round((now_s - launch_s) * 1000)),
    )
    if judgement.fault_s is not None:
        message.deviating_ms = max(0, round((now_s - judgement.fault_s) * 1000))
    return message


def edge_message(
    key: EdgeKey, judged: Judged | None, live: LiveEdge | None, *, launch_s: float
) -> stack_pb2.GraphEdge:
    """One edge of the graph, for the wire."""
    message = stack_pb2.GraphEdge(
        source=key.source,
        target=key.target,
        transport=flow_pb2.TRANSPORT_TCP if key.transport is Transport.TCP else flow_pb2.TRANSPORT_UDP,
        port=key.port,
        service=key.service,
        state=_STATES[judged.state] if judged else stack_pb2.EDGE_STATE_UNSPECIFIED,
        reason=judged.reason if judged else "",
    )
    if live is not None:
        message.addresses.extend(sorted({str(flow.address) for flow in live.flows}))
        message.backends.extend(sorted({str(one) for flow in live.flows.values() for one in flow.backends}))
        claims = {claim for flow in live.flows.values() for claim in flow.names}
        for claim in sorted(claims, key=lambda one: (-one.confidence, one.name)):
            source = flow_pb2.NameSource.Value(claim.source)
            message.names.add(
                name=claim.name, source=source, confidence=claim.confidence, at_port=claim.at_port
            )
        message.attempts, message.established = live.attempts, live.established
        message.failed, message.open = live.failed, live.open
        if live.first_established_s is not None:
            message.established_after_ms = max(0, round((live.first_established_s - launch_s) * 1000))
    return message


def explanation(explained: Explanation, knobs: Iterable[Knob]) -> stack_service_pb2.ExplainResponse:
    """Why a stack is judged as it is, for the wire."""
    edges = (
        stack_service_pb2.EdgeExplanation(
            edge=str(edge.key), state=_STATES[edge.state], counts=edge.counts, sentences=edge.sentences
        )
        for edge in explained.edges
    )
    return stack_service_pb2.ExplainResponse(
        verdict=_VERDICTS[explained.verdict],
        sentences=explained.sentences,
        edges=edges,
        knobs=(stack_service_pb2.Knob(**knob._asdict()) for knob in knobs),
    )


def rollback_message(operation: Operation) -> rollback_service_pb2.Rollback:
    """An operation, for the wire."""
    return rollback_service_pb2.Rollback(
        operation=operation.id,
        stack=operation.stack,
        vcds=operation.vcds,
        suspects=suspect_messages(operation.suspects),
        phase=_PHASES[operation.phase],
        outcome=_OUTCOMES[operation.outcome],
        snapshot=operation.snapshot,
        golden=operation.golden,
        detail=operation.detail,
        fault_ms=operation.fault_ms,
        decided_ms=operation.decided_ms,
        reverted_ms=operation.reverted_ms,
        ended_ms=operation.ended_ms,
        manual=operation.manual,
    )


def event_message(event: Event) -> stack_pb2.Event:
    """An event, for the wire."""
    return stack_pb2.Event(
        time_ms=event.time_ms,
        stack=event.stack,
        kind=event.kind,
        vcd=event.vcd,
        message=event.message,
        fields=event.fields,
    )


def _claim(name: flow_pb2.Name) -> NameClaim:
    known = name.source in flow_pb2.NameSource.values()
    source = flow_pb2.NameSource.Name(name.source if known else flow_pb2.NAME_SOURCE_UNSPECIFIED)
    return NameClaim(text(name.name), source, name.confidence, name.source in _HINTS, name.at_port)
