"""Structured logs on stderr: key=value for a person at a terminal, JSON for a collector.

No library does it: structlog loads rich beside itself, which takes a third of the time until an agent watches.
"""

import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

Level = Literal["info", "warning", "error"]
Renderer = Callable[[Mapping[str, object]], str]


def as_json(fields: Mapping[str, object]) -> str:
    """One object in one line; what JSON has no form for is told in its own words."""
    return msgspec.json.encode(fields, enc_hook=str).decode()


def as_pairs(fields: Mapping[str, object]) -> str:
    """One line of ``key=value``; a value that is not one plain word is quoted."""
    return " ".join(f"{key}={_word(str(value))}" for key, value in fields.items())


class Log:
    """An event phrase and its fields, in one line each."""

    def __init__(self) -> None:
        self.render: Renderer | None = as_pairs

    def info(self, event: str, /, **fields: object) -> None:
        """What is as it should be."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What somebody should look at."""
        self._write("warning", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """A defect, with where it happened; called where the exception is caught."""
        self._write("error", event, {**fields, "exception": traceback.format_exc()})

    def _write(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        if self.render is not None:
            head = {"timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "level": level, "event": event}
            sys.stderr.write(self.render({**head, **fields}) + "\n")
            sys.stderr.flush()


log = Log()
"""The process's one log."""


def configure() -> None:
    """Choose the form by who reads it."""
    log.render = as_pairs if sys.stderr.isatty() else as_json


def silence() -> None:
    """Log nothing: what there is to say is the command's own output."""
    log.render = None


def _word(value: str) -> str:
    plain = value and not any(character in ' "=' or character < " " for character in value)
    return value if plain else msgspec.json.encode(value).decode()
