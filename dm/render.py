"""The graph and the status as text, JSON, DOT and Mermaid."""

import json
import re
from collections.abc import Iterable

from google.protobuf.json_format import MessageToDict

from dm.v1 import flow_pb2, stack_pb2, stack_service_pb2

_STATE_COLOURS = {
    stack_pb2.EDGE_STATE_OK: "darkgreen",
    stack_pb2.EDGE_STATE_WAITING: "gray",
    stack_pb2.EDGE_STATE_FAILING: "red",
    stack_pb2.EDGE_STATE_MISSING: "red",
    stack_pb2.EDGE_STATE_RETARGETED: "red",
    stack_pb2.EDGE_STATE_UNEXPECTED: "orange",
    stack_pb2.EDGE_STATE_TOLERATED: "gold",
}


def verdict(value: "stack_pb2.Verdict.ValueType") -> str:
    """The verdict's word."""
    return stack_pb2.Verdict.Name(value).removeprefix("VERDICT_").lower()


def state(value: "stack_pb2.EdgeState.ValueType") -> str:
    """The edge state's word; empty when there is no golden image."""
    return "" if value == 0 else stack_pb2.EdgeState.Name(value).removeprefix("EDGE_STATE_").lower()


def graph_json(graph: stack_service_pb2.GetGraphResponse) -> str:
    """The whole reply as JSON."""
    return json.dumps(MessageToDict(graph, preserving_proto_field_name=True), indent=2)


def graph_text(graph: stack_service_pb2.GetGraphResponse) -> str:
    """A line an edge, aligned."""
    rows = [("SOURCE", "TARGET", "PORT", "STATE", "OPEN", "ATTEMPTS", "FAILED", "ADDRESS", "NAMED BY", "WHY")]
    for edge in graph.edges:
        named = [
            flow_pb2.NameSource.Name(name.source).removeprefix("NAME_SOURCE_").lower()
            for name in edge.names[:1]
        ]
        counts = (str(edge.open), str(edge.attempts), str(edge.failed))
        behind = f" to {','.join(edge.backends)}" if edge.backends else ""
        places = ((",".join(edge.addresses) or "-") + behind, ",".join(named) or "-")
        rows.append(
            (edge.source, edge.target, _port(edge), state(edge.state) or "-", *counts, *places, edge.reason)
        )
    return "\n".join(_aligned(rows))


def graph_dot(graph: stack_service_pb2.GetGraphResponse, *, name: str) -> str:
    """Graphviz's language; what deviates is red."""
    lines = [f"digraph {_quoted(name)} {{", "  rankdir=LR;", "  node [shape=box];"]
    for node in graph.nodes:
        lines.append(f"  {_quoted(node.name)}{' [style=dashed]' if node.external else ''};")
    for edge in graph.edges:
        colour = _STATE_COLOURS.get(edge.state, "black")
        ends = f"{_quoted(edge.source)} -> {_quoted(edge.target)}"
        lines.append(f"  {ends} [label={_quoted(_port(edge))}, color={colour}];")
    return "\n".join([*lines, "}"])


def graph_mermaid(graph: stack_service_pb2.GetGraphResponse) -> str:
    """Mermaid's flowchart, as Markdown pages show it."""
    numbers = {node.name: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        text = node.name.replace('"', "'")
        lines.append(
            f'  {numbers[node.name]}(["{text}"])' if node.external else f'  {numbers[node.name]}["{text}"]'
        )
    for edge in graph.edges:
        label = f"{_port(edge)} {state(edge.state)}".strip()
        lines.append(f"  {numbers[edge.source]} -->|{_quoted(label)}| {numbers[edge.target]}")
    return "\n".join(lines)


def explanation_text(reply: stack_service_pb2.ExplainResponse, *, everything: bool) -> str:
    """Why a stack is judged as it is; of the edges those that are not ok, or all."""
    lines = [verdict(reply.verdict), *(f"  {sentence}" for sentence in reply.sentences)]
    quiet = 0
    for edge in reply.edges:
        if edge.state == stack_pb2.EDGE_STATE_OK and not everything:
            quiet += 1
            continue
        lines.append(f"{edge.edge}: {state(edge.state)}{', counts' if edge.counts else ''}")
        lines += [f"  {sentence}" for sentence in edge.sentences]
    if quiet:
        lines.append(f"{quiet} more edges are as they should be (--all shows them)")
    lines.append("what can be set in the manifest:")
    lines += [f"  {knob.name} = {knob.value}  ({knob.meaning})" for knob in reply.knobs]
    return "\n".join(lines)


def status_text(status: stack_pb2.Status) -> str:
    """A status for a person."""
    lines = [f"{status.stack}: {verdict(status.verdict)}"]
    lines += [f"  {reason}" for reason in status.reasons]
    golden = status.golden or "none"
    counts = f"{status.edges_ok} of {status.edges_golden} golden edges ok, {status.edges_waiting} waiting"
    lines.append(f"  deviation {status.deviation:.0%}, {counts}, golden image {golden}")
    worst = sorted(((share, name) for name, share in status.vcd_deviation.items() if share), reverse=True)
    lines += [f"  {name} deviates by {share:.0%}" for share, name in worst]
    # Against the others nothing speaks; they are merely near.
    for suspect in (one for one in status.suspects if one.evidence):
        outside = " (outside the stack)" if suspect.external else ""
        lines.append(f"  suspect {suspect.name}{outside}, score {suspect.score:.2f}")
        lines += [f"    {sentence}" for sentence in suspect.evidence]
    if status.operation:
        lines.append(f"  rollback {status.operation} is under way")
    return "\n".join(lines)


def _port(edge: stack_pb2.GraphEdge) -> str:
    place = edge.service or str(edge.port)
    return f"{place}/udp" if edge.transport == flow_pb2.TRANSPORT_UDP else place


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
