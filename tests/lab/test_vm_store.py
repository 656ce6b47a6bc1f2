"""The store of things that take long to make."""

from pathlib import Path

from tests.lab.vm_store import KEPT, Store


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """A second call with the same digest finds what the first one made, also from another store."""
    made: list[str] = []

    def build(target: Path) -> None:
        target.mkdir()
        made.append(target.name)

    for _ in range(2):
        with Store(tmp_path) as store:
            assert store.ensure("disk", "a", build) == store.ensure("disk", "a", build)
    assert len(made) == 1


def test_what_was_used_last_is_kept(tmp_path: Path) -> None:
    """Beyond some of each kind the one goes whose use is longest ago, unless another lab may be using it."""
    digests = [str(number) for number in range(KEPT + 1)]
    for digest in digests:
        with Store(tmp_path) as store:
            store.ensure("disk", digest, Path.mkdir)
            store.ensure("wheel", "x", Path.mkdir)
    assert _there(tmp_path) == {f"disk@{digest}" for digest in digests[1:]}
    with Store(tmp_path), Store(tmp_path) as store:
        store.ensure("disk", "new", Path.mkdir)
    assert len(_there(tmp_path)) == KEPT + 1


def _there(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("disk@*")}
