"""The deployer's durable memory: which launch this is, and what was begun and done of each command.

A command is written down before anything is done for it, each VCD before it is touched, the result before it is sent.
So a deployer that was killed at any point knows what it had begun, and one that is asked again does nothing twice.
"""

import secrets
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple, Self

from idm.errors import DeployError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS launch (
    only INTEGER PRIMARY KEY CHECK (only = 1), id TEXT NOT NULL, boot TEXT NOT NULL, began_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS command (
    token INTEGER PRIMARY KEY, operation TEXT NOT NULL, action TEXT NOT NULL, begun_ms INTEGER NOT NULL,
    snapshot TEXT NOT NULL DEFAULT '', evidence TEXT NOT NULL DEFAULT '',
    done_ms INTEGER, problem TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS step (
    token INTEGER NOT NULL REFERENCES command, vcd TEXT NOT NULL, begun_ms INTEGER NOT NULL, done_ms INTEGER,
    PRIMARY KEY (token, vcd)
);
"""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Launch(NamedTuple):
    """One launch of the stack; its age counts on through restarts of the deployer, but not through a reboot."""

    id: str
    age_ms: int


class Entry(NamedTuple):
    """What is known of a command. ``snapshot`` stands as soon as it is chosen."""

    token: int
    operation: str
    action: str
    done: bool
    problem: str
    snapshot: str
    evidence: str


class Journal:
    """One SQLite file, used by one thread of one process; every write is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises :class:`DeployError` when the file cannot be used."""
        try:
            self._database = sqlite3.connect(path, isolation_level=None, timeout=5)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as e:
            raise DeployError(
                f"the journal {path} cannot be used: {e} (move it away to begin a new one)"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._database.close()

    def begin_launch(self) -> Launch:
        """Begin a launch now."""
        launch = secrets.token_hex(6)
        self._database.execute(
            "INSERT OR REPLACE INTO launch VALUES (1, ?, ?, ?)", (launch, _boot(), _now_ms())
        )
        return Launch(launch, 0)

    def launch(self) -> Launch | None:
        """The launch that is going on; none before the first one, and after a reboot."""
        row = self._database.execute("SELECT id, boot, began_ms FROM launch").fetchone()
        if row is None or row[1] != _boot():
            return None
        return Launch(row[0], max(0, _now_ms() - row[2]))

    def find(self, token: int) -> Entry | None:
        """What is known of a command."""
        row = self._database.execute(
            "SELECT token, operation, action, done_ms IS NOT NULL, problem, snapshot, evidence"
            " FROM command WHERE token = ?",
            (token,),
        ).fetchone()
        return None if row is None else Entry(row[0], row[1], row[2], bool(row[3]), *row[4:])

    def get(self, token: int) -> Entry:
        """What is known of a command that was begun. Raises :class:`DeployError` for any other."""
        if (entry := self.find(token)) is None:
            raise DeployError(
                f"command {token} is not in the journal: has somebody else written to the file?"
            )
        return entry

    def newest(self) -> int:
        """The highest token ever begun; 0 before the first one."""
        return int(self._database.execute("SELECT coalesce(max(token), 0) FROM command").fetchone()[0])

    def begin(self, token: int, *, operation: str, action: str) -> None:
        """Write down that a command is begun; harmless when it was already."""
        self._database.execute(
            "INSERT OR IGNORE INTO command (token, operation, action, begun_ms) VALUES (?, ?, ?, ?)",
            (token, operation, action, _now_ms()),
        )

    def choose(self, token: int, *, snapshot: str) -> None:
        """Write down to which snapshot a command takes its VCDs back."""
        self._database.execute("UPDATE command SET snapshot = ? WHERE token = ?", (snapshot, token))

    def finish(self, token: int, *, problem: str = "", evidence: str = "") -> None:
        """Write down how a command ended; no problem means that all of it is done."""
        self._database.execute(
            "UPDATE command SET done_ms = ?, problem = ?, evidence = ? WHERE token = ?",
            (_now_ms(), problem, evidence, token),
        )

    def begin_step(self, token: int, vcd: str) -> None:
        """Write down that a command begins to touch a VCD."""
        self._database.execute(
            "INSERT OR IGNORE INTO step (token, vcd, begun_ms) VALUES (?, ?, ?)", (token, vcd, _now_ms())
        )

    def finish_step(self, token: int, vcd: str) -> None:
        """Write down that a command is done with a VCD."""
        self._database.execute(
            "UPDATE step SET done_ms = ? WHERE token = ? AND vcd = ?", (_now_ms(), token, vcd)
        )

    def finished_steps(self, token: int) -> set[str]:
        """The VCDs with which a command is done."""
        rows = self._database.execute(
            "SELECT vcd FROM step WHERE token = ? AND done_ms IS NOT NULL", (token,)
        )
        return {row[0] for row in rows}


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
