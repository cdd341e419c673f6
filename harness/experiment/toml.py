"""TOML into typed sections; what does not fit is said with its path, what was found and expected."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w
from msgspec import inspect

from harness.experiment.errors import ExperimentError, did_you_mean

_NOT_A_CHOICE = "Invalid enum value "
_NO_SUCH_KEY = "Object contains unknown field "
_NO_TABLE, _NO_TEXT = "Expected `object`, got ", "Expected `str`, got "
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
    what, path = (what, path.rstrip("`")) if at else (message, "")
    at = f"{path}: " if path else ""
    types = list(_types_at(inspect.type_info(kind), re.findall(r"[a-z_]+", path)))
    found = _found(document, path)
    if what.startswith(_NOT_A_CHOICE):
        quoted = what.removeprefix(_NOT_A_CHOICE)
        choices = [str(value) for of in types if isinstance(of, inspect.LiteralType) for value in of.values]
        return f"{at}found {quoted}{_instead(quoted[1:-1], choices)}"
    if what.startswith(_NO_SUCH_KEY):
        key = what.removeprefix(_NO_SUCH_KEY)[1:-1]
        return f"{at}unknown field `{key}`{_instead(key, _keys(types, found))}"
    if what.startswith(_NO_TABLE) and (example := _example(types, found)):
        return f"{at}found {found!r}, expected a table such as {example}"
    if what.startswith(_NO_TEXT) and isinstance(found, int | float):
        return f'{at}found {found!r}, expected text: "{found}"'
    told = path and found is not None and not (isinstance(found, dict) and path[-1] != "]")
    return f"{at}{what}, found {found!r}" if told else f"{at}{what}"


def _instead(found: str, choices: Sequence[str]) -> str:
    return f", expected one of {', '.join(choices)}{did_you_mean(found, choices)}"


def _example(types: Sequence[inspect.Type], found: Any) -> str:
    """A section with the key that it cannot be without; '' where none is expected."""
    section = next((of for of in types if isinstance(of, inspect.StructType)), None)
    if section is None:
        return ""
    needed = [field.encode_name for field in section.fields if field.required]
    key = section.tag_field or (needed or [section.fields[0].encode_name])[0]
    value = f'"{found}"' if isinstance(found, str) else "..."
    return f"{{ {key} = {value} }}"


def _keys(types: Sequence[inspect.Type], found: Any) -> list[str]:
    """Those of a section, of the kind that it says it is."""
    sections = [of for of in types if isinstance(of, inspect.StructType)]
    keys: list[str] = []
    for section in sections:
        if section.tag_field is None:
            keys += [field.encode_name for field in section.fields]
        elif isinstance(found, dict) and found.get(section.tag_field) == section.tag:
            keys += [section.tag_field, *(field.encode_name for field in section.fields)]
    return keys


def _found(document: dict[str, Any], path: str) -> Any:
    """The value at a path; None below any of a table's keys."""
    found: Any = document
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        try:
            found = found[int(index)] if index else found[key]
        except (LookupError, TypeError):
            return None
    return found


def _types_at(kind: inspect.Type, path: Sequence[str]) -> Iterator[inspect.Type]:
    """What may be at a path."""
    match kind:
        case inspect.UnionType():
            for member in kind.types:
                yield from _types_at(member, path)
        case inspect.DictType():
            yield from _types_at(kind.value_type, path)
        case inspect.CollectionType():
            yield from _types_at(kind.item_type, path)
        case inspect.StructType() if path:
            for field in kind.fields:
                if field.name == path[0]:
                    yield from _types_at(field.type, path[1:])
        case _:
            yield kind


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
