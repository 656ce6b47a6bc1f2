"""Reads TOML into structs; what is wrong is told in one line, with the file, the place and what is expected there."""

import json
import tomllib
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, TypeVar, get_args, get_origin

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

_PLAIN = {str: "a string in quotes", int: "a whole number", float: "a number", bool: "true or false"}


class DocumentError(Exception):
    """A file that cannot be used; the message names the file, the place in it, and what to write there."""


def read(path: Path, form: type[S]) -> S:
    """Read a TOML file as ``form``. Raises :class:`DocumentError`."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise DocumentError(f"{path}: cannot be read, {e.strerror}: check the path") from e
    except UnicodeDecodeError as e:
        raise DocumentError(f"{path}: not UTF-8 at byte {e.start}: save it as UTF-8 text") from e
    except tomllib.TOMLDecodeError as e:
        problem, _, position = str(e).rstrip(")").rpartition(" (at ")
        raise DocumentError(f"{path}: {position}: {_uncapitalised(problem)}: correct the TOML there") from e
    try:
        return _struct(table, form, place="")
    except DocumentError as e:
        raise DocumentError(f"{path}: {e}") from e.__cause__


def _struct(value: object, form: type[S], *, place: str) -> S:
    """Build one struct field by field, since msgspec's own messages leave out the keys of nested tables."""
    if not isinstance(value, dict):
        raise DocumentError(f"{place}: expected a table, got {_show(value)}: write [{place}] above its keys")
    fields = {field.encode_name: field for field in msgspec.structs.fields(form)}
    for key in value:
        if key not in fields:
            raise DocumentError(f"{_join(place, key)}: no such key: {_suggest(key, list(fields))}")
    made = {}
    for key, field in fields.items():
        if key in value:
            made[field.name] = _field(value[key], field.type, place=_join(place, key))
        elif field.required:
            raise DocumentError(f"{_join(place, key)}: missing: write {_describe(field.type)}")
    return form(**made)


def _field(value: object, form: object, *, place: str) -> object:
    if (nested := _struct_type(form)) is not None:
        return _struct(value, nested, place=place)
    if get_origin(form) is dict and (item := _struct_type(get_args(form)[1])) is not None:
        if not isinstance(value, dict):
            raise DocumentError(f"{place}: expected tables, got {_show(value)}: write [{place}.NAME]")
        return {key: _struct(entry, item, place=_join(place, key)) for key, entry in value.items()}
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as e:
        raise DocumentError(f"{place}: expected {_describe(form)}, got {_show(value)}") from e


def _struct_type(form: object) -> type[msgspec.Struct] | None:
    for choice in get_args(form) if isinstance(form, UnionType) else (form,):
        if isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            return choice
    return None


def _describe(form: object) -> str:
    """Say in words what a field may hold."""
    origin, arguments = get_origin(form), get_args(form)
    if origin is Annotated:
        return next((meta.description for meta in arguments[1:] if meta.description), _describe(arguments[0]))
    if _struct_type(form) is not None:
        return "a table"
    if isinstance(form, UnionType):
        return " or ".join(_describe(choice) for choice in arguments if choice is not NoneType)
    if origin is tuple:
        return f"a list whose items are each {_describe(arguments[0])}"
    if origin is dict:
        return f"a table whose values are each {_describe(arguments[1])}"
    if isinstance(form, type) and issubclass(form, Enum):
        return "one of " + ", ".join(json.dumps(member.value) for member in form)
    return _PLAIN[form] if isinstance(form, type) and form in _PLAIN else str(form)


def _suggest(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known here are {', '.join(sorted(known))}"


def _show(value: object) -> str:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
