"""How golden images differ from each other and from live stacks."""

import msgspec
from hypothesis import given

from dm.difference import Difference, diff, diff_live
from dm.edge import EdgeKey, Transport
from dm.golden import GoldenImage
from dm.learning import merge
from dm.rules import Action, Rule
from dm.states import EdgeState, Judged
from tests.dm.test_expected import launch
from tests.dm.test_golden import IMAGES, an_image

DB = EdgeKey("api", "db", Transport.TCP, 5432)
STRANGER = EdgeKey("db", "ntp.example", Transport.UDP, 123)


def lines(found: list[Difference]) -> list[str]:
    """As people read them."""
    return [str(one) for one in found]


@given(IMAGES)
def test_an_image_differs_from_itself_by_nothing(image: GoldenImage) -> None:
    """Equal images differ by nothing, and a stack that had all of an image's edges does not differ from it."""
    assert diff(image, image) == []
    worked = [edge.key for edge in image.edges]
    assert diff_live(image, worked, {}, fingerprint=image.fingerprint) == []


def test_tells_classes_and_rules() -> None:
    """An edge that became optional, one that is gone, and a rule that was added, are a line each."""
    other = merge([an_image(), an_image(edges=())])
    assert lines(diff(an_image(), other)) == ["~ api → db:5432: required, held, now optional, held"]
    assert lines(diff(an_image(), an_image(edges=()))) == ["- api → db:5432: required, held"]
    ruled = an_image(rules=(Rule(action=Action.PIN, source="api", note="always"),))
    assert lines(diff(an_image(), ruled)) == ["+ pin api → *:* (always)"]


def test_tells_another_stack_and_manifest() -> None:
    """Images with the same edges that hold for something else are not taken for equal."""
    assert lines(diff(an_image(), an_image(stack="t"))) == ["~ stack: s, now t"]
    assert lines(diff(an_image(), an_image(fingerprint="g"))) == ["~ manifest: f, now g"]


def test_a_live_stack_may_lack_what_is_optional() -> None:
    """One launch is compared with what is required of each, not with the classes of several."""
    optional = merge([an_image(), an_image(edges=())])
    assert diff_live(optional, [], {}, fingerprint="f") == []
    assert diff_live(optional, [DB], {}, fingerprint="f") == []
    assert lines(diff_live(an_image(), [], {}, fingerprint="f")) == ["- api → db:5432: required, held"]


def test_a_live_stack_deviates_now() -> None:
    """What worked in this launch and fails now is told with its state."""
    judged = {DB: Judged(EdgeState.FAILING, "3 attempts refused in the last 2.0 s", 0.0, counted=True)}
    assert lines(diff_live(an_image(), [DB], judged, fingerprint="f")) == [
        "! api → db:5432: failing, 3 attempts refused in the last 2.0 s"
    ]


def test_a_live_stack_calls_others() -> None:
    """A new edge is told, be it in vain, unless a rule ignores it."""
    judged = {STRANGER: Judged(EdgeState.UNEXPECTED, "not in the golden image", 0.0, counted=False)}
    assert lines(diff_live(an_image(), [DB], judged, fingerprint="f")) == [
        "+ db → ntp.example:123/udp: never worked"
    ]
    assert lines(diff_live(an_image(), [DB, STRANGER], {}, fingerprint="f")) == ["+ db → ntp.example:123/udp"]
    ruled = msgspec.structs.replace(an_image(), rules=(Rule(action=Action.IGNORE, port=123),))
    assert diff_live(ruled, [DB, STRANGER], {}, fingerprint="f") == []


def test_a_live_stack_on_another_of_the_changing_ports_does_not_differ() -> None:
    """Ports that differ in every launch are compared as one edge."""
    image = merge([launch(2121, 40001), launch(2121, 51234), launch(2121, 33333)])
    worked = [EdgeKey("a", "b", Transport.TCP, port) for port in (2121, 45678)]
    assert diff_live(image, worked, {}, fingerprint="f") == []
