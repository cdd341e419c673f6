"""Changes of a trace before it is replayed: another block size, a selection of sessions, capped gaps.

Each moves the hit rate or the working set, so each returns, with the new trace, what it did and the
figures before and after; the same line goes into the trace's provenance and travels with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from workloads.formats.canonical import as_canonical
from workloads.formats.minting import Mint
from workloads.prefix import hit_and_input_tokens, hit_rate, infinite_cache_hit_rate
from workloads.trace import BlockIds, Session, Trace, TraceError, Turn

_PROVENANCE_KEY = "change"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a change moves. Hit rates are ``prefix.hit_rate`` and ``prefix.infinite_cache_hit_rate``."""

    sessions: int
    turns: int
    hit_rate: float
    infinite_cache_hit_rate: float


@dataclass(frozen=True, slots=True)
class Change:
    """One change and the trace's figures around it."""

    what: str
    before: Figures
    after: Figures

    def __str__(self) -> str:
        """One line, for the provenance and for people."""
        b, a = self.before, self.after
        return (
            f"{self.what}: hit rate {b.hit_rate:.4f} -> {a.hit_rate:.4f}, infinite cache "
            f"{b.infinite_cache_hit_rate:.4f} -> {a.infinite_cache_hit_rate:.4f}, "
            f"sessions {b.sessions} -> {a.sessions}, turns {b.turns} -> {a.turns}"
        )


def reblock(trace: Trace, block_tokens: int) -> tuple[Trace, Change]:
    """Cut the same contexts into blocks of ``block_tokens``, which divides the present size or is a
    multiple of it; ``TraceError`` otherwise.

    Smaller: block ``id`` becomes ``id * k`` to ``id * k + k - 1``. Blocks that were not full before have
    no recorded content; they get ids that never reappear. Larger: ``k`` blocks become one, the same for
    the same (the last of them names all before it), and what fills no block is lost.
    """
    if block_tokens < 1 or (trace.block_tokens % block_tokens and block_tokens % trace.block_tokens):
        raise TraceError.at(
            "block size",
            found=f"{block_tokens} tokens",
            expected=f"a divisor or multiple of the trace's {trace.block_tokens}",
            fix="choose one",
        )
    recut = _split(trace, block_tokens) if block_tokens < trace.block_tokens else _join(trace, block_tokens)
    return _changed(trace, f"blocks of {trace.block_tokens} to {block_tokens} tokens", recut, block_tokens)


def select(
    trace: Trace,
    *,
    min_turns: int = 1,
    max_context_tokens: int | None = None,
    min_hit_rate: float = 0.0,
    sessions: int | None = None,
) -> tuple[Trace, Change]:
    """Keep the first ``sessions`` sessions that have the turns, no prompt above ``max_context_tokens`` and
    the hit rate on themselves; ``TraceError`` if none does.

    A sub-agent whose parent session is not kept has no parent any more. A session of one turn has hit
    rate 0.
    """
    limits = {
        f"at least {min_turns} turns": min_turns > 1,
        f"prompts of at most {max_context_tokens} tokens": max_context_tokens is not None,
        f"hit rate at least {min_hit_rate:g}": min_hit_rate > 0,
        f"the first {sessions}": sessions is not None,
    }
    what = "sessions with " + (", ".join(limit for limit, given in limits.items() if given) or "any shape")
    kept = [
        session
        for session in trace.sessions
        if len(session.turns) >= min_turns
        and (max_context_tokens is None or _max_context_tokens(session) <= max_context_tokens)
        and _session_hit_rate(session, trace.block_tokens) >= min_hit_rate
    ][:sessions]
    if not kept:
        raise TraceError.at(
            f"trace {trace.sha256[:16]}",
            found=f"none of {len(trace.sessions)} sessions",
            expected=what,
            fix="ask for less, or choose another trace",
        )
    names = {session.session_id for session in kept}
    return _changed(
        trace,
        what,
        (s if s.parent_session_id in names else replace(s, parent_session_id=None) for s in kept),
        trace.block_tokens,
    )


def cap_gaps(trace: Trace, cap_s: float) -> tuple[Trace, Change]:
    """Shorten every gap above ``cap_s`` seconds to it."""
    if not cap_s >= 0:
        raise TraceError.at("gap cap", found=f"{cap_s} s", expected="0 or more", fix="correct it")
    capped = (
        replace(s, turns=tuple(replace(turn, gap_s=min(turn.gap_s, cap_s)) for turn in s.turns))
        for s in trace.sessions
    )
    return _changed(trace, f"gaps capped at {cap_s:g} s", capped, trace.block_tokens)


def figures(trace: Trace) -> Figures:
    """The figures of a trace as it is."""
    return Figures(
        sessions=len(trace.sessions),
        turns=sum(len(session.turns) for session in trace.sessions),
        hit_rate=hit_rate(trace),
        infinite_cache_hit_rate=infinite_cache_hit_rate(trace),
    )


def _changed(trace: Trace, what: str, sessions: Iterable[Session], block_tokens: int) -> tuple[Trace, Change]:
    changed = replace(trace, sessions=tuple(sessions), block_tokens=block_tokens)
    change = Change(what, figures(trace), figures(changed))
    number = 1 + sum(key.startswith(_PROVENANCE_KEY) for key in trace.provenance)
    provenance = {**trace.provenance, f"{_PROVENANCE_KEY} {number}": str(change)}
    return as_canonical(replace(changed, provenance=provenance)), change


def _split(trace: Trace, block_tokens: int) -> list[Session]:
    ratio = trace.block_tokens // block_tokens
    ids = (i for s in trace.sessions for turn in s.turns for i in (turn.block_ids, turn.generated_block_ids))
    mint = Mint(ratio * max((int(i.max()) + 1 for i in ids if len(i)), default=0))

    def blocks(turn: Turn) -> BlockIds:
        full = (_context(turn)[:, np.newaxis] * ratio + np.arange(ratio)).reshape(-1)
        total = (turn.input_tokens + turn.output_tokens) // block_tokens
        return np.concatenate((full, mint.fresh(total - len(full))))

    return [
        replace(s, turns=tuple(_with_context(turn, blocks(turn), block_tokens) for turn in s.turns))
        for s in trace.sessions
    ]


def _join(trace: Trace, block_tokens: int) -> list[Session]:
    ratio = block_tokens // trace.block_tokens
    mint = Mint()

    def blocks(turn: Turn) -> BlockIds:
        return mint.recorded(_context(turn)[ratio - 1 :: ratio].tolist())

    return [
        replace(s, turns=tuple(_with_context(turn, blocks(turn), block_tokens) for turn in s.turns))
        for s in trace.sessions
    ]


def _context(turn: Turn) -> BlockIds:
    return np.concatenate((turn.block_ids, turn.generated_block_ids))


def _with_context(turn: Turn, blocks: BlockIds, block_tokens: int) -> Turn:
    """The turn with these blocks of prompt and output."""
    prompt = turn.input_tokens // block_tokens
    return replace(turn, block_ids=blocks[:prompt], generated_block_ids=blocks[prompt:])


def _max_context_tokens(session: Session) -> int:
    return max(turn.input_tokens for turn in session.turns)


def _session_hit_rate(session: Session, block_tokens: int) -> float:
    hit_tokens, input_tokens = hit_and_input_tokens(session, block_tokens)
    return hit_tokens / input_tokens if input_tokens else 0.0
