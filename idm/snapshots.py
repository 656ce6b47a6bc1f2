"""Which snapshot to take VCDs back to, and which ones to keep. Pure: values in, values out."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from idm.driver import Snapshot
from idm.errors import DeployError


def name_tag(golden: str, *, now: datetime) -> str:
    """The tag of a snapshot of that golden image taken now; tags of one image sort by time."""
    return f"{golden}-{now.astimezone(UTC):%Y%m%d-%H%M%S}"


def choose(
    snapshots: Sequence[Snapshot], vcds: Collection[str], *, golden: str, excluded: Collection[str] = ()
) -> str:
    """The newest tag of the golden image that exists for all these VCDs and is not excluded.

    Raises :class:`DeployError` that says what is missing.
    """
    fitting = [snapshot for snapshot in snapshots if snapshot.golden == golden]
    if not fitting:
        raise DeployError(f"no snapshot belongs to golden image {golden}: take one by `idm capture`")
    whole = [tag for tag in newest_first(fitting) if set(vcds) <= {s.vcd for s in fitting if s.tag == tag}]
    if not whole:
        raise DeployError(
            f"no snapshot of golden image {golden} holds all of {', '.join(vcds)}: run `idm capture`"
        )
    if not (left := [tag for tag in whole if tag not in excluded]):
        raise DeployError(
            f"every snapshot of golden image {golden} was tried for this cause: a person is needed"
        )
    return left[0]


def expire(snapshots: Sequence[Snapshot], *, keep_last: int, golden: str) -> list[Snapshot]:
    """What retention deletes: all but the last tags; never the newest one nor any of the golden image in force."""
    kept = set(newest_first(snapshots)[: max(1, keep_last)])
    return [snapshot for snapshot in snapshots if snapshot.tag not in kept and snapshot.golden != golden]


def newest_first(snapshots: Sequence[Snapshot]) -> list[str]:
    """The tags, each once."""
    created: dict[str, datetime] = {}
    for snapshot in snapshots:
        created[snapshot.tag] = max(snapshot.created, created.get(snapshot.tag, snapshot.created))
    return sorted(created, key=lambda tag: (created[tag], tag), reverse=True)
