"""The manager's durable state in one SQLite file: golden images, operations, generations, events."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from dm.golden import GoldenError, GoldenImage, decode, encode
from dm.rollback import Operation

EVENTS_KEPT = 10_000
_BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS golden (
    id TEXT PRIMARY KEY, stack TEXT NOT NULL, created_ms INTEGER NOT NULL, current INTEGER NOT NULL,
    document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS operation (
    id TEXT PRIMARY KEY, stack TEXT NOT NULL, decided_ms INTEGER NOT NULL, over INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS generation (
    stack TEXT NOT NULL, vcd TEXT NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (stack, vcd));
CREATE TABLE IF NOT EXISTS token (stack TEXT PRIMARY KEY, token INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS guard (stack TEXT PRIMARY KEY, mode TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL, stack TEXT NOT NULL, body TEXT NOT NULL);
"""


class StoreError(Exception):
    """The file cannot be used; the message says why and what to try."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. ``time_ms`` counts from the Unix epoch by the manager's clock."""

    time_ms: int
    stack: str
    kind: str
    vcd: str = ""
    message: str
    fields: dict[str, str] = {}


class KeptImage(NamedTuple):
    """A golden image as it is kept."""

    image: GoldenImage
    created_ms: int
    current: bool


class Store:
    """Opens the file, creating it when absent; closes as a context manager. Each method is one transaction."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot use {path}: {error}; name another file with --state") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def put_golden(self, image: GoldenImage, *, created_ms: int) -> None:
        """Keep an image and put it in force for its stack."""
        with self._transaction():
            self._db.execute("UPDATE golden SET current = 0 WHERE stack = ?", (image.stack,))
            self._db.execute(
                "INSERT INTO golden VALUES (?, ?, ?, 1, ?)"
                " ON CONFLICT (id) DO UPDATE SET current = 1, document = excluded.document",
                (image.id, image.stack, created_ms, encode(image)),
            )

    def update_golden(self, image: GoldenImage) -> None:
        """Keep what people changed of an image; it stays in force or not as it was."""
        self._db.execute("UPDATE golden SET document = ? WHERE id = ?", (encode(image), image.id))

    def golden(self, stack: str = "") -> list[KeptImage]:
        """All images, or one stack's, newest first."""
        rows = self._db.execute(
            "SELECT document, created_ms, current FROM golden WHERE ? IN ('', stack) ORDER BY created_ms DESC, id",
            (stack,),
        )
        return [
            KeptImage(decode(document), created_ms, bool(current)) for document, created_ms, current in rows
        ]

    def find_golden(self, name: str) -> KeptImage:
        """An image by the beginning of its id, or the one in force by its stack's name; raises GoldenError."""
        kept = self.golden()
        found = [one for one in kept if one.image.stack == name and one.current]
        found = found or [one for one in kept if name and one.image.id.startswith(name)]
        if not found:
            raise GoldenError(f"there is no golden image {name!r}: `dm golden list` shows them")
        if len(found) > 1:
            raise GoldenError(f"{name!r} begins several golden images: write more of the identifier")
        return found[0]

    def current_golden(self, stack: str) -> GoldenImage | None:
        """The image in force for a stack."""
        return next((kept.image for kept in self.golden(stack) if kept.current), None)

    def delete_golden(self, name: str) -> GoldenImage:
        """Delete an image, also the one in force: then the newest that is left comes into force."""
        image = self.find_golden(name).image
        with self._transaction():
            self._db.execute("DELETE FROM golden WHERE id = ?", (image.id,))
            if self.current_golden(image.stack) is None:
                self._db.execute(
                    "UPDATE golden SET current = 1 WHERE id ="
                    " (SELECT id FROM golden WHERE stack = ? ORDER BY created_ms DESC, id LIMIT 1)",
                    (image.stack,),
                )
        return image

    def put_operation(self, operation: Operation) -> None:
        """Keep an operation's newest state."""
        self._db.execute(
            "INSERT INTO operation VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET over = excluded.over, body = excluded.body",
            (
                operation.id,
                operation.stack,
                operation.decided_ms,
                operation.over,
                msgspec.json.encode(operation).decode(),
            ),
        )

    def operations(self, stack: str = "", *, limit: int = 50) -> list[Operation]:
        """Operations, newest first."""
        rows = self._db.execute(
            "SELECT body FROM operation WHERE ? IN ('', stack) ORDER BY decided_ms DESC, id LIMIT ?",
            (stack, limit),
        )
        return [msgspec.json.decode(body, type=Operation) for (body,) in rows]

    def next_token(self, stack: str) -> int:
        """A token above every earlier one of the stack."""
        row = self._db.execute(
            "INSERT INTO token VALUES (?, 1) ON CONFLICT (stack) DO UPDATE SET token = token + 1 RETURNING token",
            (stack,),
        ).fetchone()
        return int(row[0])

    def generations(self, stack: str) -> Mapping[str, int]:
        """The generation of each VCD that ever had one."""
        return dict(
            self._db.execute("SELECT vcd, generation FROM generation WHERE stack = ?", (stack,)).fetchall()
        )

    def put_generation(self, stack: str, vcd: str, generation: int) -> None:
        """Keep a VCD's generation."""
        self._db.execute(
            "INSERT INTO generation VALUES (?, ?, ?)"
            " ON CONFLICT (stack, vcd) DO UPDATE SET generation = excluded.generation",
            (stack, vcd, generation),
        )

    def guard(self, stack: str) -> str:
        """The mode that a person set for the stack; empty when nobody did."""
        row = self._db.execute("SELECT mode FROM guard WHERE stack = ?", (stack,)).fetchone()
        return str(row[0]) if row else ""

    def put_guard(self, stack: str, mode: str) -> None:
        """Keep the mode that a person set."""
        self._db.execute(
            "INSERT INTO guard VALUES (?, ?) ON CONFLICT (stack) DO UPDATE SET mode = excluded.mode",
            (stack, mode),
        )

    def put_event(self, event: Event) -> None:
        """Keep an event; only the newest are kept."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO event (time_ms, stack, body) VALUES (?, ?, ?)",
                (event.time_ms, event.stack, msgspec.json.encode(event).decode()),
            )
            self._db.execute("DELETE FROM event WHERE number <= ?", ((cursor.lastrowid or 0) - EVENTS_KEPT,))

    def events(self, stack: str = "", *, limit: int) -> list[Event]:
        """The newest events, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM event WHERE ? IN ('', stack) ORDER BY number DESC LIMIT ?", (stack, limit)
        ).fetchall()
        return [msgspec.json.decode(body, type=Event) for (body,) in reversed(rows)]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
