"""Trace formats: one module each, recognised by content, all read by ``load_trace``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workloads.formats import bailian, canonical, kv_cache_tester, lmcache_agentic, mooncake, tracelab
from workloads.formats.canonical import write_trace
from workloads.formats.minting import Mint
from workloads.formats.source import ParsedFile, TraceSource, read_source, unreadable
from workloads.formats.tokenizers import Tokenizer, find_tokenizer, no_tokenizer
from workloads.trace import Trace, TraceError

__all__ = ["FORMATS", "TraceFormat", "load_trace", "write_trace"]

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """``recognises`` looks for the format's mark in a file's bytes; ``parse`` takes block ids from the mint.

    ``ids`` is how far recorded ids reach: a global id is the same block in every file of a folder, a
    local one (or one that is minted) in its own file only.
    """

    name: str
    mark: str
    ids: Literal["local", "global"]
    recognises: Callable[[bytes], bool]
    parse: Callable[[TraceSource, Mint, Tokenizer], ParsedFile]


FORMATS = (
    TraceFormat(canonical.NAME, "a header line naming it", "local", canonical.recognises, canonical.parse),
    TraceFormat(
        bailian.NAME, 'rows with "chat_id", "parent_chat_id"', "global", bailian.recognises, bailian.parse
    ),
    TraceFormat(
        tracelab.NAME, 'rows with "session_id", "round_index"', "local", tracelab.recognises, tracelab.parse
    ),
    TraceFormat(
        lmcache_agentic.NAME,
        'rows with "session_id", "input"',
        "local",
        lmcache_agentic.recognises,
        lmcache_agentic.parse,
    ),
    TraceFormat(
        mooncake.NAME,
        'rows with "input_length", "text_input" or "messages"',
        "global",
        mooncake.recognises,
        mooncake.parse,
    ),
    TraceFormat(
        kv_cache_tester.NAME,
        'one object with "requests"',
        "local",
        kv_cache_tester.recognises,
        kv_cache_tester.parse,
    ),
)


def load_trace(path: Path, format: str | None = None, tokenizer: str | None = None) -> Trace:
    """Read a trace file, or a folder's trace files in name order as one trace; gzip is accepted.

    The format is found by content unless named. Formats of text need a tokenizer, by a name that
    ``find_tokenizer`` knows.

    A file's ``sha256`` is that of its uncompressed bytes; a folder's that of its "name sha256" lines,
    names without ``.gz``; where text was counted, that of a line "that hash, tokenizer". Raises
    ``TraceError``, one line, for anything that is not a usable trace.
    """
    named_format = None if format is None else _named_format(format)
    named_tokenizer = None if tokenizer is None else find_tokenizer(tokenizer)
    sources = [read_source(file) for file in _trace_files(path)]
    formats = [named_format or _format_of(source) for source in sources]
    _check_alike(sources, [trace_format.name for trace_format in formats], "format")
    parsed: list[ParsedFile] = []
    mint = Mint()
    for source in sources:
        if formats[0].ids == "local":
            mint = Mint(mint.next_id)
        parsed.append(formats[0].parse(source, mint, named_tokenizer or no_tokenizer(source.path)))
    _check_alike(sources, [str(file.block_tokens) for file in parsed], "block size in tokens")
    sessions = tuple(session for file in parsed for session in file.sessions)
    if not sessions:
        raise TraceError.at(
            path, found="no request", expected="at least one session with a turn", fix="choose another trace"
        )
    _check_session_ids(sources, parsed)
    single = not path.is_dir()
    sha256 = sources[0].sha256 if single else _folder_sha256(sources)
    counted_with = next((file.tokenizer for file in parsed if file.tokenizer), None)
    if counted_with:
        sha256 = hashlib.sha256(f"{sha256} {counted_with}\n".encode()).hexdigest()
    return Trace(
        format=formats[0].name,
        sha256=sha256,
        block_tokens=parsed[0].block_tokens,
        sessions=sessions,
        provenance=_provenance(sources, parsed, counted_with, single),
    )


def _trace_files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.iterdir() if _is_trace_file(file))
    except OSError as error:
        raise unreadable(path, error) from None
    if not files:
        raise TraceError.at(
            path,
            found="a folder without trace files",
            expected=f"files named *{', *'.join(_SUFFIXES)}",
            fix="check the path",
        )
    return files


def _is_trace_file(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _named_format(name: str) -> TraceFormat:
    for trace_format in FORMATS:
        if trace_format.name == name:
            return trace_format
    known = ", ".join(trace_format.name for trace_format in FORMATS)
    raise TraceError.at(
        "format", found=repr(name), expected=f"one of {known}", fix="choose one, or let the content tell"
    )


def _format_of(source: TraceSource) -> TraceFormat:
    for trace_format in FORMATS:
        if trace_format.recognises(source.data):
            return trace_format
    known = " or ".join(f"{trace_format.name} ({trace_format.mark})" for trace_format in FORMATS)
    raise TraceError.at(
        source.path,
        found=f"an unknown format beginning with {source.data[:40].decode(errors='replace')!r}",
        expected=known,
        fix="convert it, or name another file",
    )


def _check_alike(sources: list[TraceSource], values: list[str], what: str) -> None:
    for source, value in zip(sources, values, strict=True):
        if value != values[0]:
            raise TraceError.at(
                source.path,
                found=f"{what} {value}",
                expected=f"{values[0]}, as in {sources[0].path.name}",
                fix="load the files apart",
            )


def _check_session_ids(sources: list[TraceSource], parsed: list[ParsedFile]) -> None:
    owners: dict[str, Path] = {}
    for source, file in zip(sources, parsed, strict=True):
        for session in file.sessions:
            if session.session_id in owners:
                raise TraceError.at(
                    source.path,
                    found=f"session {session.session_id!r}, which {owners[session.session_id].name} has too",
                    expected="session ids that occur once",
                    fix="rename the session or leave one file out",
                )
            owners[session.session_id] = source.path


def _folder_sha256(sources: list[TraceSource]) -> str:
    lines = (f"{source.path.name.removesuffix('.gz')} {source.sha256}\n" for source in sources)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _provenance(
    sources: list[TraceSource], parsed: list[ParsedFile], counted_with: str | None, single: bool
) -> dict[str, str]:
    """The file's own provenance (in a folder, keyed by file too), the tokenizer that counted text, and the
    summed anomaly counts."""
    provenance: dict[str, str] = {} if single else {"files": str(len(sources))}
    if counted_with:
        provenance["tokenizer"] = counted_with
    counts: Counter[str] = Counter()
    for source, file in zip(sources, parsed, strict=True):
        prefix = "" if single else f"{source.path.name}: "
        provenance |= {prefix + key: value for key, value in file.provenance.items()}
        counts.update(file.counts)
    return provenance | {name: str(count) for name, count in sorted(counts.items())}
