"""``dualpath-trace`` version 1: this project's own trace files, JSON lines.

A header line ``{"format": "dualpath-trace", "version": 1, "block_tokens": 64, "provenance": {}}``,
then one session a line: ``{"session_id", "start_s", "parent", "turns": [{"in", "out", "gap_s",
"blocks": [[first, count], ...], "generated": [[first, count], ...]}]}``. Block ids are runs of
consecutive ids, which keeps append-only sessions small; sessions may share ids. The fields mean what
``workloads.trace`` says.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from workloads.blocks import to_ranges
from workloads.formats.minting import Mint
from workloads.formats.source import (
    BlockId,
    BlockTokens,
    ParsedFile,
    PositiveTokens,
    Seconds,
    TraceSource,
    decode,
)
from workloads.formats.tokenizers import Tokenizer
from workloads.trace import BlockIds, Session, Trace, TraceError, Turn

NAME = "dualpath-trace"
VERSION = 1


_Run = tuple[BlockId, Annotated[int, msgspec.Meta(ge=1)]]
"""First id and count of consecutive ids."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    version: int
    block_tokens: BlockTokens
    provenance: dict[str, str] = {}


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_tokens: PositiveTokens = msgspec.field(name="in")
    output_tokens: PositiveTokens = msgspec.field(name="out")
    gap_s: Seconds
    blocks: tuple[_Run, ...]
    generated: tuple[_Run, ...]


class _Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    start_s: Seconds
    parent: str | None
    turns: Annotated[tuple[_Turn, ...], msgspec.Meta(min_length=1)]


_HEADERS = msgspec.json.Decoder(_Header)
_SESSIONS = msgspec.json.Decoder(_Session)


def recognises(data: bytes) -> bool:
    """The first line is an object that names this format."""
    return b'"' + NAME.encode() + b'"' in data.partition(b"\n")[0]


def parse(source: TraceSource, mint: Mint, _tokenizer: Tokenizer) -> ParsedFile:
    """Sessions of a canonical file, every block id raised by the first one that the mint has left."""
    lines = source.data.splitlines()
    header = decode(_HEADERS, lines[0], f"{source.path}:1")
    if header.format != NAME or header.version != VERSION:
        raise TraceError.at(
            f"{source.path}:1",
            found=f"{header.format!r} version {header.version}",
            expected=f"{NAME!r} version {VERSION}",
            fix="read it with the release that wrote it",
        )
    documents = [
        (f"{source.path}:{number}", decode(_SESSIONS, line, f"{source.path}:{number}"))
        for number, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    first_block_id = mint.reserve(max((_end_of_ids(document) for _, document in documents), default=0))
    sessions = tuple(
        _session(document, where, header.block_tokens, first_block_id) for where, document in documents
    )
    return ParsedFile(header.block_tokens, sessions, header.provenance, {})


def as_canonical(trace: Trace) -> Trace:
    """The trace as its canonical file is read back: its origin in the provenance, and the file's hash."""
    provenance = {**trace.provenance, **_origin(trace)}
    return replace(trace, format=NAME, provenance=provenance, sha256=content_sha256(trace))


def encode_trace(trace: Trace) -> bytes:
    """The file's bytes; equal traces give equal bytes."""
    provenance = {**trace.provenance, **_origin(trace)}
    documents: list[object] = [_Header(NAME, VERSION, trace.block_tokens, provenance)]
    documents += map(_session_document, trace.sessions)
    encoder = msgspec.json.Encoder()
    return b"".join(encoder.encode(document) + b"\n" for document in documents)


def content_sha256(trace: Trace) -> str:
    """Hash of the canonical bytes: the identity of a trace that was made rather than read."""
    return hashlib.sha256(encode_trace(trace)).hexdigest()


def write_trace(trace: Trace, path: Path) -> None:
    """Write atomically, gzipped if the name ends in ``.gz``: the file appears whole or not at all.

    ``OSError`` (no such folder, disk full) is the caller's; no temporary file is left behind.
    """
    data = encode_trace(trace)
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _origin(trace: Trace) -> dict[str, str]:
    return {} if trace.format == NAME else {"source_format": trace.format, "source_sha256": trace.sha256}


def _end_of_ids(document: _Session) -> int:
    runs = (run for turn in document.turns for run in (*turn.blocks, *turn.generated))
    return max((first + count for first, count in runs), default=0)


def _session_document(session: Session) -> _Session:
    return _Session(
        session.session_id,
        session.start_s,
        session.parent_session_id,
        tuple(
            _Turn(
                input_tokens=turn.input_tokens,
                output_tokens=turn.output_tokens,
                gap_s=turn.gap_s,
                blocks=_ranges(turn.block_ids),
                generated=_ranges(turn.generated_block_ids),
            )
            for turn in session.turns
        ),
    )


def _ranges(ids: BlockIds) -> tuple[_Run, ...]:
    return tuple((run.first, run.count) for run in to_ranges(ids))


def _session(document: _Session, where: str, block_tokens: int, first_block_id: int) -> Session:
    _check_counts(document, where, block_tokens)
    expand = _expander(document, first_block_id)
    return Session(
        session_id=document.session_id,
        turns=tuple(
            Turn(
                turn.input_tokens, turn.output_tokens, expand(turn.blocks), expand(turn.generated), turn.gap_s
            )
            for turn in document.turns
        ),
        start_s=document.start_s,
        parent_session_id=document.parent,
    )


def _check_counts(document: _Session, where: str, block_tokens: int) -> None:
    for index, turn in enumerate(document.turns):
        prompt = turn.input_tokens // block_tokens
        generated = (turn.input_tokens + turn.output_tokens) // block_tokens - prompt
        for key, ranges, expected in (
            ("blocks", turn.blocks, prompt),
            ("generated", turn.generated, generated),
        ):
            found = sum(count for _, count in ranges)
            if found != expected:
                raise TraceError.at(
                    f"{where}: $.turns[{index}].{key}",
                    found=f"{found} blocks",
                    expected=f"{expected}, which {turn.input_tokens} + {turn.output_tokens} tokens fill",
                    fix="correct the ranges or the token counts",
                )


def _expander(document: _Session, first_block_id: int) -> Callable[[tuple[_Run, ...]], BlockIds]:
    """Runs to ids. Turns that start at the same id share one array, so that an append-only session
    costs its longest prompt's memory, not the sum over its turns."""
    longest: dict[int, int] = {}
    for turn in document.turns:
        for first, count in (*turn.blocks, *turn.generated):
            longest[first] = max(longest.get(first, 0), count)
    arrays: dict[int, BlockIds] = {}

    def run_ids(run: _Run) -> BlockIds:
        first, count = run
        if first not in arrays:
            begin = first + first_block_id
            arrays[first] = np.arange(begin, begin + longest[first], dtype=np.int64)
        return arrays[first][:count]

    def expand(runs: tuple[_Run, ...]) -> BlockIds:
        if len(runs) == 1:
            return run_ids(runs[0])
        return np.concatenate([run_ids(run) for run in runs]) if runs else np.empty(0, dtype=np.int64)

    return expand
