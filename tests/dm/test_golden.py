"""Golden images."""

import hashlib
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm.edge import Transport
from dm.golden import GoldenEdge, GoldenError, GoldenImage, Kind, decode, encode, schema
from dm.learning import merge, unseen_share
from dm.rules import Action, Rule, joined

FORMAT_1 = Path(__file__).parent / "golden_format_1.json"

EDGES = st.builds(
    GoldenEdge,
    source=st.sampled_from("ab"),
    target=st.sampled_from("xyz"),
    transport=st.sampled_from(Transport),
    port=st.integers(1, 5),
    service=st.sampled_from(("", "", "api")),
    external=st.booleans(),
    kind=st.sampled_from(Kind),
    runs=st.just(1),
    established_ms=st.tuples(st.integers(0, 60_000)),
    refresh_ms=st.just(()) | st.tuples(st.integers(0, 60_000)),
    after=st.lists(st.sampled_from(["x → y:1", "x → y:2"]), unique=True).map(
        lambda keys: tuple(sorted(keys))
    ),
)
RULES = st.builds(
    Rule, action=st.sampled_from(Action), target=st.sampled_from("xy"), note=st.sampled_from(["", "why"])
)
IMAGES = st.builds(
    lambda edges, rules: GoldenImage(
        stack="s",
        fingerprint="f",
        runs=1,
        smoke=True,
        vcds=("a", "b"),
        edges=tuple(sorted(edges, key=lambda e: e.key)),
        rules=joined(rules),
    ),
    st.lists(EDGES, unique_by=lambda edge: edge.key, max_size=8),
    st.lists(RULES, max_size=3),
)


@given(IMAGES)
def test_a_document_reads_back_as_it_was(image: GoldenImage) -> None:
    """Export and import lose nothing, and the identifier stays."""
    assert decode(encode(image)) == image
    assert decode(encode(image)).id == image.id


@given(IMAGES)
def test_a_document_follows_its_schema(image: GoldenImage) -> None:
    """What `dm golden schema` prints describes every document."""
    jsonschema.validate(json.loads(encode(image)), json.loads(schema()))


@given(IMAGES, IMAGES)
def test_merging_is_commutative(one: GoldenImage, two: GoldenImage) -> None:
    """The order of two launches does not matter."""
    assert merge([one, two]) == merge([two, one])


@given(IMAGES, IMAGES, IMAGES)
def test_merging_is_associative(one: GoldenImage, two: GoldenImage, three: GoldenImage) -> None:
    """The grouping of launches does not matter."""
    assert merge([merge([one, two]), three]) == merge([one, merge([two, three])])


def an_image(**changes: object) -> GoldenImage:
    """A small image."""
    edge = GoldenEdge(
        source="api",
        target="db",
        transport=Transport.TCP,
        port=5432,
        kind=Kind.HELD,
        runs=1,
        established_ms=(4000,),
    )
    image = GoldenImage(stack="s", fingerprint="f", runs=1, smoke=True, vcds=("api", "db"), edges=(edge,))
    return msgspec.structs.replace(image, **changes)


def test_a_deadline_shrinks_with_the_launches_seen() -> None:
    """One launch doubles the latest time, four add a quarter; the slack comes on top."""
    (edge,) = an_image().edges
    four = msgspec.structs.replace(edge, runs=4, established_ms=(1000, 2000, 3000, 4000))
    assert edge.deadline_s(5.0) == pytest.approx(13.0)
    assert four.deadline_s(5.0) == pytest.approx(10.0)


def test_a_document_of_format_1_keeps_its_identifier() -> None:
    """Snapshots belong to an image by its identifier, so the one of an image kept by an earlier version stays."""
    document = FORMAT_1.read_text()
    assert decode(document).id == hashlib.sha256(document.encode()).hexdigest()[:12]


@pytest.mark.parametrize("format", [1, 2])
def test_a_document_of_an_earlier_format_keeps_its_rhythm(format: int) -> None:
    """The longest quiet time of all its launches stands for one of them."""
    image = decode(FORMAT_1.read_text().replace('"format": 1', f'"format": {format}'))
    assert [edge.refresh_ms for edge in image.edges] == [(), (2500,)]
    assert decode(encode(image)) == image


def test_a_document_of_format_3_names_no_launches() -> None:
    """It is read as it was, and merges with any."""
    old = decode(encode(an_image()).replace('"format": 4', '"format": 3'))
    assert old == an_image()
    assert merge([old, an_image(launches=("1",))]).launches == ("1",)


def test_a_rule_leaves_the_identifier_as_it_was() -> None:
    """What people say of an image does not part it from its snapshots."""
    ruled = an_image(rules=(Rule(action=Action.TOLERATE, target="db"),))
    assert ruled.id == an_image().id
    assert decode(encode(ruled)) == ruled


@pytest.mark.parametrize(("runs", "percent"), [(1, 95), (3, 63), (10, 26), (59, 5)])
def test_more_launches_leave_less_unseen(runs: int, percent: int) -> None:
    """The share of launches that an edge may have been part of unseen falls as the rule of three says."""
    assert round(100 * unseen_share(runs)) == percent


def test_a_launch_counts_once() -> None:
    """Images that were learned from the same launch do not merge, directly or through others."""
    one, two = an_image(launches=("1",)), an_image(launches=("2",))
    both = merge([one, two])
    assert (both.runs, both.launches) == (2, ("1", "2"))
    with pytest.raises(GoldenError, match="same launch, which would count twice"):
        merge([both, two])


def test_a_launch_leaves_the_identifier_as_it_was() -> None:
    """Two launches that teach the same have the same image, and earlier versions' images keep their snapshots."""
    assert an_image(launches=("1",)).id == an_image().id
    assert decode(encode(an_image(launches=("1",)))).launches == ("1",)


def test_images_of_different_manifests_do_not_merge() -> None:
    """A changed manifest needs a new image."""
    with pytest.raises(GoldenError, match="different stacks or manifests"):
        merge([an_image(), an_image(fingerprint="g")])


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "it ends too early, in line 1: export it again"),
        (encode(an_image())[:200], "it ends too early, in line"),
        (encode(an_image()).replace('"s",', '"s"', 1), "line 4, column 3: expecting ',' delimiter: correct"),
        ("[]", "not a golden image: expected `object`, got `array`: `dm golden schema` prints what"),
        (
            encode(an_image()).replace('"port": 5432', '"port": "x"'),
            r"edges\[0\].port \(api → db\): expected `int`, got `str`: `dm golden schema`",
        ),
        (
            encode(an_image()).replace('"port"', '"prot"'),
            r"edges\[0\] \(api → db\): object contains unknown field `prot`",
        ),
        (encode(an_image()).replace('"format": 4,', ""), "`format` is missing: this version writes 4"),
        (
            encode(an_image(rules=(Rule(action=Action.PIN, port=70_000),))),
            r"rules\[0\].port: expected `int` <= 65535",
        ),
        (encode(an_image()).replace('"format": 4', '"format": 9'), "format 9 is not known here"),
        (
            encode(an_image()).replace('"format": 4', '"format": 4, "era": 1'),
            "object contains unknown field `era`",
        ),
        (encode(an_image(vcds=("db",))), "api calls db but is not among its `vcds`: add it there"),
        (encode(an_image(runs=0)), "runs: expected `int` >= 1"),
        (encode(an_image(launches=("a", "b"))), "`launches` names one twice, or more than its 1 `runs`"),
        (encode(an_image(edges=an_image().edges * 2)), "stands in it twice"),
        (
            encode(an_image()).replace('"kind": "held"', '"kind": "hold"'),
            "kind .*: invalid enum value 'hold'",
        ),
        (encode(an_image()).replace("4000", "-1"), r"edges\[0\].established_ms.*: expected `int` >= 0"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place(document: str, says: str) -> None:
    """Whatever is wrong with a document is said in one line."""
    with pytest.raises(GoldenError, match=says) as caught:
        decode(document)
    assert "\n" not in str(caught.value)


@given(IMAGES, st.sampled_from(["runs", "port", "kind", "vcds", "transport"]))
def test_what_the_schema_refuses_is_not_read(image: GoldenImage, field: str) -> None:
    """The schema and the reader agree about a value of the wrong type, wherever it stands."""
    document = json.loads(encode(image))
    for place in (document, *document["edges"]):
        if field in place:
            place[field] = {"wrong": True}
    try:
        jsonschema.validate(document, json.loads(schema()))
    except jsonschema.ValidationError:
        with pytest.raises(GoldenError):
            decode(json.dumps(document))
    else:
        assert decode(json.dumps(document)) == image


def test_the_schema_describes_everything() -> None:
    """Somebody who edits an image by hand finds a word on each of its fields, and on the values of each choice."""
    definitions = json.loads(schema())["$defs"]
    undescribed = [
        f"{name}.{field}"
        for name in ("GoldenImage", "GoldenEdge")
        for field, described in definitions[name]["properties"].items()
        if "description" not in described and "$ref" not in described
    ]
    assert undescribed == []
    for name in ("Kind", "Action"):
        assert all(f"{value}: " in definitions[name]["description"] for value in definitions[name]["enum"])
    assert "format" in definitions["GoldenImage"]["required"]
