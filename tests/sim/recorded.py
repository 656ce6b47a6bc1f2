"""Recordings of real labs, as ``dm serve --record`` kept them, played to the core in virtual time."""

from pathlib import Path

from dm.replay import Player, read
from dm.verdict import Judgement

KEPT = Path(__file__).resolve().parent.parent / "recordings"
"""Up to the end of the stack, and without what only operations are told."""


def history(path: Path) -> list[Judgement]:
    """Every judgement of a whole recording."""
    return [moment.judgement for moment in Player().play(read(path))]
