"""Which machines somebody else has taken back, past this deployer."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Reverts:
    """Tells apart what this deployer does from what others do. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work: Counter[str] = Counter()
        # By VCD: the incarnation that this deployer has led it to, and the one that somebody else has.
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}
        # By VCD what it was last, and of those that somebody else has begun to take back what they were before.
        self._latest: dict[str, str] = {}
        self._leaving: dict[str, str] = {}

    @contextmanager
    def ours(self, vcd: str) -> Iterator[None]:
        """What happens to the VCD in the block is this deployer's own doing."""
        with self._lock:
            self._at_work[vcd] += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work[vcd] -= 1

    def is_ours(self, vcd: str) -> bool:
        """Whether this deployer is at work on the VCD."""
        with self._lock:
            return self._at_work[vcd] > 0

    def note_ours(self, vcd: str, incarnation: str) -> None:
        """This deployer has taken the VCD back, and it is this incarnation now."""
        with self._lock:
            self._ours[vcd] = incarnation

    def note_leave(self, vcd: str) -> None:
        """The VCD was ended to go back to a snapshot: its next incarnation is of that, whenever it is started.

        Where the latest one is of a snapshot already it may be that, so the next one has to show by itself what it is.
        """
        with self._lock:
            latest = self._latest.get(vcd, "")
            if not self._at_work[vcd] and (not latest or latest != self._theirs.get(vcd)):
                self._leaving[vcd] = latest

    def look(self, vcd: str, incarnation: str, *, from_snapshot: bool) -> bool:
        """Whether somebody else has made this incarnation of a snapshot; one that is off has none yet."""
        with self._lock:
            if from_snapshot and not incarnation and not self._at_work[vcd]:
                self._leaving[vcd] = self._latest.get(vcd, "")
            begun = incarnation not in ("", self._leaving.get(vcd, incarnation))
            arrived = bool(incarnation) and (begun or from_snapshot)
            if arrived:
                self._leaving.pop(vcd, None)
            if arrived and not self._at_work[vcd]:
                self._theirs[vcd] = incarnation
            self._latest[vcd] = incarnation or self._latest.get(vcd, "")
            return incarnation not in ("", self._ours.get(vcd)) and incarnation == self._theirs.get(vcd)
