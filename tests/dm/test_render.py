"""The graph as text, DOT and Mermaid."""

import pytest

from dm import render
from dm.v1 import flow_pb2, stack_pb2, stack_service_pb2


@pytest.fixture
def graph() -> stack_service_pb2.GetGraphResponse:
    """Two edges, one of them wrong, to a name that wants quoting."""
    return stack_service_pb2.GetGraphResponse(
        nodes=[
            stack_pb2.GraphNode(name="api"),
            stack_pb2.GraphNode(name="db"),
            stack_pb2.GraphNode(name='pay"x', external=True),
        ],
        edges=[
            stack_pb2.GraphEdge(
                source="api",
                target="db",
                port=5432,
                transport=flow_pb2.TRANSPORT_TCP,
                state=stack_pb2.EDGE_STATE_FAILING,
                reason="3 attempts refused",
                addresses=["198.18.0.2"],
            ),
            stack_pb2.GraphEdge(source="api", target='pay"x', port=53, transport=flow_pb2.TRANSPORT_UDP),
        ],
    )


def test_text_is_aligned(graph: stack_service_pb2.GetGraphResponse) -> None:
    """Every column begins below its heading."""
    heading, first, _ = render.graph_text(graph).splitlines()
    assert first.startswith("api     db      5432    failing")
    assert heading.index("STATE") == first.index("failing")
    assert first.endswith("3 attempts refused")


def test_text_tells_who_is_behind_an_address(graph: stack_service_pb2.GetGraphResponse) -> None:
    """An address that is translated on the way is shown with where it leads."""
    graph.edges[0].backends.append("198.18.0.3:5433")
    _, first, _ = render.graph_text(graph).splitlines()
    assert "198.18.0.2 to 198.18.0.3:5433" in first


def test_dot_quotes_and_colours(graph: stack_service_pb2.GetGraphResponse) -> None:
    """Names are quoted, wrong edges red, external nodes dashed."""
    dot = render.graph_dot(graph, name="shop")
    assert '"api" -> "db" [label="5432", color=red];' in dot
    assert '"pay\\"x" [style=dashed];' in dot


def test_mermaid_names_its_nodes_by_number(graph: stack_service_pb2.GetGraphResponse) -> None:
    """Names appear only as quoted labels, whatever is in them."""
    lines = render.graph_mermaid(graph).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n0 -->|"5432 failing"| n1' in lines
    assert '  n2(["pay\'x"])' in lines


def test_status_names_only_those_against_whom_something_speaks() -> None:
    """Whoever is merely near a fault is no suspect to a person."""
    status = stack_pb2.Status(
        stack="shop",
        verdict=stack_pb2.VERDICT_FAILED,
        suspects=[
            stack_pb2.Suspect(name="cache", score=1.0, evidence=["nothing listens any more at cache:6379"]),
            stack_pb2.Suspect(name="api", score=0.03),
        ],
    )
    text = render.status_text(status)
    assert "suspect cache, score 1.00\n    nothing listens any more at cache:6379" in text
    assert "api" not in text
