"""Trace formats: one module each, recognised by content, all read by ``load_trace``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workloads.formats import canonical, kv_cache_tester
from workloads.formats.canonical import write_trace
from workloads.formats.source import ParsedFile, TraceSource, read_source, unreadable
from workloads.trace import Session, Trace, TraceError

__all__ = ["FORMATS", "TraceFormat", "load_trace", "write_trace"]

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """``recognises`` looks for the format's mark in a file's bytes; ``parse`` gives each session block
    ids of its own, none below the given one."""

    name: str
    mark: str
    recognises: Callable[[bytes], bool]
    parse: Callable[[TraceSource, int], ParsedFile]


FORMATS = (
    TraceFormat(canonical.NAME, "a header line naming it", canonical.recognises, canonical.parse),
    TraceFormat(
        kv_cache_tester.NAME, 'one object with "requests"', kv_cache_tester.recognises, kv_cache_tester.parse
    ),
)


def load_trace(path: Path) -> Trace:
    """Read a trace file, or a folder's trace files in name order as one trace; gzip is accepted.

    A file's ``sha256`` is that of its uncompressed bytes; a folder's that of its "name sha256" lines,
    names without ``.gz``. Raises ``TraceError``, one line, for anything that is not a usable trace.
    """
    sources = [read_source(file) for file in _trace_files(path)]
    formats = [_format_of(source) for source in sources]
    parsed: list[ParsedFile] = []
    next_block_id = 0
    for source, trace_format in zip(sources, formats, strict=True):
        parsed.append(trace_format.parse(source, next_block_id))
        next_block_id = max(next_block_id, _end_of_ids(parsed[-1].sessions))
    _check_alike(sources, [trace_format.name for trace_format in formats], "format")
    _check_alike(sources, [str(file.block_tokens) for file in parsed], "block size in tokens")
    sessions = tuple(session for file in parsed for session in file.sessions)
    if not sessions:
        raise TraceError.at(
            path, found="no request", expected="at least one session with a turn", fix="choose another trace"
        )
    _check_session_ids(sources, parsed)
    single = not path.is_dir()
    return Trace(
        format=formats[0].name,
        sha256=sources[0].sha256 if single else _folder_sha256(sources),
        block_tokens=parsed[0].block_tokens,
        sessions=sessions,
        provenance=_provenance(sources, parsed, single),
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


def _end_of_ids(sessions: tuple[Session, ...]) -> int:
    ids = (i for s in sessions for turn in s.turns for i in (turn.block_ids, turn.generated_block_ids))
    return max((int(i.max()) + 1 for i in ids if len(i)), default=0)


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


def _provenance(sources: list[TraceSource], parsed: list[ParsedFile], single: bool) -> dict[str, str]:
    """The file's own provenance (in a folder, keyed by file too) and the summed anomaly counts."""
    provenance: dict[str, str] = {} if single else {"files": str(len(sources))}
    counts: Counter[str] = Counter()
    for source, file in zip(sources, parsed, strict=True):
        prefix = "" if single else f"{source.path.name}: "
        provenance |= {prefix + key: value for key, value in file.provenance.items()}
        counts.update(file.counts)
    return provenance | {name: str(count) for name, count in sorted(counts.items())}
