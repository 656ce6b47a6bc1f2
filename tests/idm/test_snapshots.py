"""Which snapshot is used, and which ones are kept."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idm.driver import Snapshot
from idm.errors import DeployError
from idm.snapshots import choose, expire, name_tag, newest_first

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _taken(tag: str, *, golden: str, minute: int, vcds: tuple[str, ...] = ("api", "db")) -> list[Snapshot]:
    return [Snapshot(vcd, tag, NOON + timedelta(minutes=minute), 1, golden) for vcd in vcds]


KNOWN = [
    *_taken("old", golden="g1", minute=0),
    *_taken("new", golden="g1", minute=1),
    *_taken("partial", golden="g1", minute=2, vcds=("api",)),
    *_taken("other", golden="g2", minute=3),
]


@pytest.mark.parametrize(
    ("vcds", "excluded", "chosen"),
    [(("api", "db"), (), "new"), (("api",), (), "partial"), (("api", "db"), ("new",), "old")],
)
def test_newest_whole_snapshot_of_the_golden_image_is_chosen(
    vcds: tuple[str, ...], excluded: tuple[str, ...], chosen: str
) -> None:
    """The newest tag of the golden image that holds every VCD and was not excluded."""
    assert choose(KNOWN, vcds, golden="g1", excluded=excluded) == chosen


@pytest.mark.parametrize(
    ("vcds", "golden", "excluded", "problem"),
    [
        (("api",), "g3", (), "no snapshot belongs to golden image g3"),
        (("api", "web"), "g1", (), "holds all of api, web"),
        (("api", "db"), "g1", ("old", "new"), "was tried for this cause"),
    ],
)
def test_missing_snapshot_is_told(
    vcds: tuple[str, ...], golden: str, excluded: tuple[str, ...], problem: str
) -> None:
    """Without a usable snapshot the reason is told."""
    with pytest.raises(DeployError, match=problem):
        choose(KNOWN, vcds, golden=golden, excluded=excluded)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["g1", "g2", "g3"])), unique_by=lambda each: each[0]
    ),
    st.integers(0, 10),
    st.sampled_from(["g1", "g2", "g3"]),
)
def test_retention_never_deletes_what_is_needed(
    taken: list[tuple[int, str]], keep_last: int, golden: str
) -> None:
    """The newest tag and all of the golden image in force stay, and at least the last ones asked for."""
    known = [each for minute, image in taken for each in _taken(f"t{minute}", golden=image, minute=minute)]
    expired = expire(known, keep_last=keep_last, golden=golden)
    gone = {snapshot.tag for snapshot in expired}
    assert all(snapshot.golden != golden for snapshot in expired)
    assert not gone & set(newest_first(known)[: max(1, keep_last)])
    assert gone | {snapshot.tag for snapshot in known if snapshot not in expired} == set(newest_first(known))


def test_tags_of_an_image_sort_by_time() -> None:
    """A later tag sorts after an earlier one."""
    assert name_tag("abc", now=NOON) == "abc-20260101-120000"
    assert name_tag("abc", now=NOON) < name_tag("abc", now=NOON + timedelta(seconds=1))
