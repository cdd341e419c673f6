"""What a trace holds, in the field's words and with its formulas.

For turn t of a session, with ``input`` prompt tokens, ``output`` generated tokens:

- ``append`` of the first turn is ``input``. Of a later turn it is ``input - (input + output of turn
  t-1)``, not below 0: what user and tools added to the context so far. Of a shrinking turn (``input``
  below the previous one's: a compaction) it is the tokens outside the full blocks common with the
  previous prompt: what had to be written anew.
- ``generated`` is ``output``; ``context`` is ``input``; ``total`` is the last turn's input + output.

``mean_append``, ``mean_generated`` and ``mean_context`` are means over sessions of each session's mean
over its turns, as in the paper's trace table (section 7); ``mean_turns`` and ``mean_total`` are means
over sessions. ``hit_rate`` is token-weighted over the turns after a session's first, each session hitting
only itself; ``infinite_cache_hit_rate`` over all turns, with one infinite cache for all sessions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np

from workloads.prefix import common_prefix_blocks, hit_and_input_tokens, infinite_cache_hit_rate, reuse
from workloads.trace import Session, Trace, Turn

_PERCENTILES = (10, 50, 75, 90, 99)
_REUSE_HEAVY = 0.8
"""Agentic traces lie above 0.9 (the paper's: 0.987); what is below this is another kind of workload."""


class SessionSummary(msgspec.Struct, frozen=True):
    """One session; ``hit_rate`` is None if it has a single turn."""

    session_id: str
    turns: int
    hit_rate: float | None
    max_context: int
    shrinking_turns: int


class TraceSummary(msgspec.Struct, frozen=True):
    """A trace's statistics, tokens unless named otherwise. ``block_ids`` are "shared" if some block occurs
    in more than one session. ``gap_percentiles_s`` (p10 ... p99, only those that the number of gaps can
    resolve) are of the recorded gaps before the turns after a first. ``hint`` is a line for the reader, or
    None."""

    sha256: str
    format: str
    block_tokens: int
    block_ids: Literal["shared", "of one session each"]
    sessions: int
    turns: int
    hit_rate: float
    infinite_cache_hit_rate: float
    mean_turns: float
    mean_append: float
    mean_generated: float
    mean_total: float
    mean_context: float
    max_context: int
    gap_percentiles_s: dict[str, float]
    provenance: dict[str, str]
    hint: str | None
    session_rows: tuple[SessionSummary, ...]


def inspect(trace: Trace) -> TraceSummary:
    """Summarise a trace; every session has at least one turn."""
    sessions = trace.sessions
    sums = [hit_and_input_tokens(session, trace.block_tokens) for session in sessions]
    input_tokens = sum(tokens for _, tokens in sums)
    hit_rate = sum(hit for hit, _ in sums) / input_tokens if input_tokens else 0.0
    infinite_rate = infinite_cache_hit_rate(trace)
    return TraceSummary(
        sha256=trace.sha256,
        format=trace.format,
        block_tokens=trace.block_tokens,
        block_ids="shared" if reuse(sessions).shared else "of one session each",
        sessions=len(sessions),
        turns=sum(len(session.turns) for session in sessions),
        hit_rate=hit_rate,
        infinite_cache_hit_rate=infinite_rate,
        mean_turns=_mean([len(session.turns) for session in sessions]),
        mean_append=_mean([_mean(append_tokens(s, trace.block_tokens)) for s in sessions]),
        mean_generated=_mean([_mean([turn.output_tokens for turn in s.turns]) for s in sessions]),
        mean_total=_mean([s.turns[-1].input_tokens + s.turns[-1].output_tokens for s in sessions]),
        mean_context=_mean([_mean([turn.input_tokens for turn in s.turns]) for s in sessions]),
        max_context=max(turn.input_tokens for session in sessions for turn in session.turns),
        gap_percentiles_s=_gap_percentiles_s(sessions),
        provenance=trace.provenance,
        hint=_hint(hit_rate, infinite_rate),
        session_rows=tuple(
            _session_summary(session, *hits) for session, hits in zip(sessions, sums, strict=True)
        ),
    )


def append_tokens(session: Session, block_tokens: int) -> list[int]:
    """Tokens that user and tools added, per turn, by the module's formula."""
    later = [_append_tokens(before, turn, block_tokens) for before, turn in pairwise(session.turns)]
    return [session.turns[0].input_tokens, *later]


def _append_tokens(before: Turn, turn: Turn, block_tokens: int) -> int:
    if _shrinks(before, turn):
        return turn.input_tokens - block_tokens * common_prefix_blocks(before.block_ids, turn.block_ids)
    return max(0, turn.input_tokens - before.input_tokens - before.output_tokens)


def _shrinks(before: Turn, turn: Turn) -> bool:
    return turn.input_tokens < before.input_tokens


def _session_summary(session: Session, hit_tokens: int, input_tokens: int) -> SessionSummary:
    return SessionSummary(
        session_id=session.session_id,
        turns=len(session.turns),
        hit_rate=hit_tokens / input_tokens if input_tokens else None,
        max_context=max(turn.input_tokens for turn in session.turns),
        shrinking_turns=sum(_shrinks(before, turn) for before, turn in pairwise(session.turns)),
    )


def _hint(hit_rate: float, infinite_rate: float) -> str | None:
    if hit_rate >= _REUSE_HEAVY:
        return None
    return (
        f"sessions hit {hit_rate:.1%} of their later prompts, one infinite cache {infinite_rate:.1%} of all: "
        "not a reuse-heavy agentic workload, whose sessions hit more than 90%"
    )


def _gap_percentiles_s(sessions: tuple[Session, ...]) -> dict[str, float]:
    """p is resolved if at least one gap lies beyond it on either side."""
    gaps_s = [turn.gap_s for session in sessions for turn in session.turns[1:]]
    held = [p for p in _PERCENTILES if len(gaps_s) * min(p, 100 - p) >= 100]
    return {f"p{p}": float(np.percentile(gaps_s, p)) for p in held}


def _mean(values: list[int] | list[float]) -> float:
    return sum(values) / len(values)
