"""Bytes of a trace file and typed decoding of them: where every malformed-input error is worded."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from workloads.trace import Session, TraceError

MAX_TOKENS = 1 << 24
"""No turn is longer: far above any model's context, and low enough that its ids fit in memory."""
MAX_SECONDS = 1e10

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
PositiveTokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
BlockTokens = Annotated[int, msgspec.Meta(ge=1, le=65536)]
BlockId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]

_GZIP_MAGIC = b"\x1f\x8b"
_LFS_POINTER = b"version https://git-lfs"
_Decoded = TypeVar("_Decoded")
_ROW_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class TraceSource:
    """One file, uncompressed. ``sha256`` is that of ``data``."""

    path: Path
    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What a format's parser makes of one file; ``counts`` are anomalies met, by description, and
    ``tokenizer`` names the one that text was counted with."""

    block_tokens: int
    sessions: tuple[Session, ...]
    provenance: dict[str, str]
    counts: dict[str, int]
    tokenizer: str | None = None


def read_source(path: Path) -> TraceSource:
    """Read and, if it is gzip, uncompress a file; refuse what cannot be a trace of any format."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    if data.startswith(_GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise TraceError.at(
                path,
                found=f"a damaged gzip stream ({error})",
                expected="a complete gzip file",
                fix="fetch the file again",
            ) from None
    if not data.strip():
        raise TraceError.at(
            path, found="an empty file", expected="at least one session", fix="fetch the file again"
        )
    if data.startswith(_LFS_POINTER):
        raise TraceError.at(
            path, found="a Git LFS pointer", expected="the data it points to", fix="run `git lfs pull` there"
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TraceError.at(
            f"{path}:{line}",
            found=f"byte 0x{data[error.start]:02x} at offset {error.start}, which is not UTF-8",
            expected="UTF-8 JSON, plain or gzip",
            fix="convert or fetch the file again",
        ) from None
    return TraceSource(path, data, hashlib.sha256(data).hexdigest())


def unreadable(path: Path, error: OSError) -> TraceError:
    """The error for a file or folder that the system does not let us read."""
    return TraceError.at(
        path,
        found=error.strerror or str(error),
        expected="a readable trace file or folder",
        fix="check the path and its permissions",
    )


def decode(decoder: msgspec.json.Decoder[_Decoded], data: bytes, where: object) -> _Decoded:
    """Decode JSON into a typed struct; a ``TraceError`` names the key path, the value and the type."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        complaint, _, key_path = str(error).partition(" - at ")
        key_path = key_path.strip("`") or "$"
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(where, error) from None
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(where, error) from None
    raise TraceError.at(
        f"{where}: {key_path}",
        found=_value_at(document, key_path),
        expected=_expectation(complaint),
        fix="correct the value or leave the file out",
    )


def decode_rows(
    decoder: msgspec.json.Decoder[_Decoded], source: TraceSource
) -> Iterator[tuple[int, _Decoded]]:
    """JSON lines as (line number, row), blank lines left out; errors as of ``decode``, with the line."""
    for number, line in enumerate(source.data.splitlines(), start=1):
        if line.strip():
            yield number, decode(decoder, line, f"{source.path}:{number}")


def first_row_keys(data: bytes) -> frozenset[str]:
    """Keys of the first line if it is a JSON object of its own: what JSON lines are recognised by."""
    try:
        return frozenset(_ROW_KEYS.decode(data.lstrip().partition(b"\n")[0]))
    except (msgspec.DecodeError, RecursionError):
        return frozenset()


def _expectation(complaint: str) -> str:
    """The expected half of msgspec's "Expected X, got Y"; other complaints, of keys, whole."""
    if complaint.startswith("Expected "):
        return complaint.removeprefix("Expected ").partition(", got")[0]
    return f"a valid one ({complaint})"


def _malformed(where: object, error: Exception) -> TraceError:
    return TraceError.at(
        where,
        found=f"malformed JSON ({error})",
        expected="one complete JSON document",
        fix="the file is damaged or cut short: fetch it again",
    )


def _value_at(value: Any, key_path: str) -> str:
    """What the document holds at a msgspec key path such as ``$.requests[3].in``, shortened."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", key_path):
        try:
            value = value[key] if key else value[int(index)]
        except (KeyError, IndexError, TypeError):
            break
    if isinstance(value, dict):
        return "an object with the keys " + (", ".join(sorted(value))[:80] or "(none)")
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
