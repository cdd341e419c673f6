"""TOML into typed sections; what does not fit is said with its path, what was found and expected."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w
from msgspec import inspect

from harness.experiment.errors import ExperimentError, did_you_mean

_NOT_A_CHOICE = "Invalid enum value "
_T = TypeVar("_T")


def decode(path: Path, kind: type[_T]) -> _T:
    """The file as ``kind``; raises ExperimentError."""
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: byte {error.start}: not UTF-8; expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path}: not valid TOML: {error}") from None
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        line = " ".join(_in_words(str(error), kind, document).split())  # a key may hold anything
        raise ExperimentError(f"{path}: {line}") from None


def _in_words(message: str, kind: type, document: dict[str, Any]) -> str:
    """``Expected `int`, got `str` - at `$.scale.bytes_divisor``` with the path first and the value found.

    In a path, ``[...]`` is one of a table's keys.
    """
    what, at, path = message.rpartition(" - at `$.")
    if not at:
        return message
    path = path.rstrip("`")
    if what.startswith(_NOT_A_CHOICE):
        quoted = what.removeprefix(_NOT_A_CHOICE)
        choices = _choices(inspect.type_info(kind), re.findall(r"[a-z_]+", path))
        hint = did_you_mean(quoted[1:-1], choices)
        return f"{path}: found {quoted}, expected one of {', '.join(choices)}{hint}"
    found = _found(document, path)
    shown = "" if found is None or (isinstance(found, dict) and path[-1] != "]") else f", found {found!r}"
    return f"{path}: {what}{shown}"


def _found(document: dict[str, Any], path: str) -> Any:
    """The value at a path; None below any of a table's keys."""
    found: Any = document
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        try:
            found = found[int(index)] if index else found[key]
        except (LookupError, TypeError):
            return None
    return found


def _choices(kind: inspect.Type, path: Sequence[str]) -> list[str]:
    """What the literal at a path may be."""
    match kind:
        case inspect.LiteralType():
            return list(map(str, kind.values))
        case inspect.UnionType():
            return [choice for member in kind.types for choice in _choices(member, path)]
        case inspect.DictType():
            return _choices(kind.value_type, path)
        case inspect.CollectionType():
            return _choices(kind.item_type, path)
        case inspect.StructType():
            return [
                c for field in kind.fields if field.name == path[0] for c in _choices(field.type, path[1:])
            ]
    return []


def encode(section: msgspec.Struct) -> str:
    """A section with all its defaults as TOML; what is not set is left out."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(section)))


def _without_none(document: Any) -> Any:
    """TOML has no null."""
    if isinstance(document, dict):
        return {key: _without_none(value) for key, value in document.items() if value is not None}
    if isinstance(document, list | tuple):
        return [_without_none(value) for value in document]
    return document
