"""A golden image as it is judged."""

import msgspec
import pytest

from dm.edge import ANY_PORT, EdgeKey, Pair, Transport
from dm.expected import expect
from dm.golden import GoldenEdge, GoldenImage, Kind
from dm.learning import merge
from dm.rules import Action, Rule


def launch(*ports: int, rules: tuple[Rule, ...] = ()) -> GoldenImage:
    """An image of one launch in which a calls b on these ports."""
    edges = tuple(
        GoldenEdge(
            source="a",
            target="b",
            transport=Transport.TCP,
            port=port,
            kind=Kind.ON_DEMAND,
            runs=1,
            established_ms=(port,),
        )
        for port in ports
    )
    return GoldenImage(
        stack="s", fingerprint="f", runs=1, smoke=True, vcds=("a", "b"), edges=edges, rules=rules
    )


def ports(image: GoldenImage) -> list[int]:
    """The ports that are expected."""
    return [key.port for key in expect(image).edges]


def test_ports_that_differ_in_every_launch_are_one_edge() -> None:
    """Three launches on the same control port and other data ports leave the control port and one edge on any port."""
    image = merge([launch(2121, 40001), launch(2121, 51234), launch(2121, 33333)])
    assert sorted(ports(image)) == [ANY_PORT, 2121]
    assert expect(image).fixed_ports == {Pair("a", "b", Transport.TCP): frozenset({2121})}
    folded = expect(image).edges[EdgeKey("a", "b", Transport.TCP, ANY_PORT)]
    assert (folded.runs, folded.established_ms) == (3, (33333, 40001, 51234))
    assert str(folded.key) == "a → b:*"


@pytest.mark.parametrize(
    "launches",
    [
        [launch(8080, 8081)],
        [launch(8080), launch(8080, 8081)],
        [launch(8080), launch(8080), launch(8081)],
        [launch(80), launch(443)],
        [launch(40001, 40002)],
    ],
)
def test_ports_that_stay_are_edges_of_their_own(launches: list[GoldenImage]) -> None:
    """Two services of one machine, an optional one, and the system's own ports are not taken together."""
    image = merge(launches)
    assert ANY_PORT not in ports(image)
    assert expect(image).fixed_ports == {}


def test_many_ports_given_out_by_the_kernel_are_found_in_one_launch() -> None:
    """A single launch suffices when it shows several ephemeral ports."""
    assert ports(launch(21, 40001, 40002, 40003)) == [21, ANY_PORT]


def test_a_launch_seen_on_any_port_joins_those_that_were_not() -> None:
    """Once ports were found to be changing, the next launch is learned on any port and merges with the others."""
    image = merge([launch(40001), launch(51234), launch(ANY_PORT)])
    assert ports(image) == [ANY_PORT]
    assert expect(image).edges[EdgeKey("a", "b", Transport.TCP, ANY_PORT)].runs == 3


def test_an_ignored_edge_is_not_expected() -> None:
    """A rule takes an edge out of what is judged, and leaves it in what was learned."""
    image = launch(80, 443, rules=(Rule(action=Action.IGNORE, target="b", port=443),))
    assert ports(image) == [80]
    assert [edge.port for edge in image.edges] == [80, 443]


def test_a_pinned_edge_is_required() -> None:
    """An edge that only some launches had has to be there once it is pinned."""
    image = merge([launch(80, 443), launch(80)])
    optional = next(edge for edge in image.edges if edge.port == 443)
    assert not image.required(optional)
    pinned = msgspec.structs.replace(image, rules=(Rule(action=Action.PIN, source="a", port=443),))
    assert pinned.required(optional)


def test_a_service_that_a_registry_names_makes_no_port_a_changing_one() -> None:
    """Its edge stands beside those of ports, which are expected as they were."""
    plain = launch(2121)
    service = msgspec.structs.replace(plain.edges[0], port=ANY_PORT, service="api")
    image = msgspec.structs.replace(plain, edges=(*plain.edges, service))
    assert {str(key) for key in expect(image).edges} == {"a → b:2121", "a → b:api"}
    assert not expect(image).fixed_ports
