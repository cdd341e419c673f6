"""Which turns of which sessions a run replays.

A replay may start in a session's middle, its earlier KV already stored, so that a short run has the
reuse of a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workloads.prefix import hit_blocks
from workloads.trace import Session, Trace, TraceError, Turn


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """``turn_count`` consecutive turns of a session from ``first_turn`` (counted from 0) on."""

    session: Session
    first_turn: int
    turn_count: int
    block_tokens: int

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The replayed turns."""
        return self.session.turns[self.first_turn : self.first_turn + self.turn_count]


def select_windows(
    trace: Trace,
    sessions: int,
    turns_per_session: int | None,
    start: Literal["beginning", "middle"],
    seed: int,
) -> tuple[ReplayWindow, ...]:
    """Windows on ``sessions`` different sessions, drawn by ``seed``, in the trace's order.

    Only sessions of at least ``turns_per_session`` turns are eligible; None replays whole sessions.
    ``middle`` centres the window in its session. ``TraceError`` if there are not enough sessions.
    """
    if sessions < 1 or (turns_per_session is not None and turns_per_session < 1):
        raise TraceError.at(
            "replay window",
            found=f"{sessions} sessions of {turns_per_session} turns",
            expected="at least 1 of each",
            fix="correct the experiment",
        )
    needed = turns_per_session or 1
    eligible = [index for index, session in enumerate(trace.sessions) if len(session.turns) >= needed]
    if len(eligible) < sessions:
        longest = max(len(session.turns) for session in trace.sessions)
        raise TraceError.at(
            f"trace {trace.sha256[:16]}",
            found=f"{len(eligible)} sessions of at least {needed} turns among {len(trace.sessions)} "
            f"(the longest has {longest} turns)",
            expected=f"{sessions}",
            fix="ask for fewer sessions or turns, or choose a larger trace",
        )
    drawn = np.random.default_rng(seed).permutation(len(eligible))[:sessions]
    return tuple(
        _window(trace.sessions[eligible[index]], turns_per_session, start, trace.block_tokens)
        for index in sorted(drawn.tolist())
    )


def window_hit_rate(windows: Sequence[ReplayWindow]) -> float:
    """Token-weighted hit rate of the replayed turns, sessions' very first turns excluded; 0.0 if none
    is left. Hits are on everything before a turn, also before the window."""
    hit_tokens = input_tokens = 0
    for window in windows:
        hits = hit_blocks(window.session)
        for index in range(max(1, window.first_turn), window.first_turn + window.turn_count):
            turn = window.session.turns[index]
            hit_tokens += min(hits[index] * window.block_tokens, turn.input_tokens)
            input_tokens += turn.input_tokens
    return hit_tokens / input_tokens if input_tokens else 0.0


def _window(
    session: Session, turns_per_session: int | None, start: Literal["beginning", "middle"], block_tokens: int
) -> ReplayWindow:
    count = turns_per_session or len(session.turns)
    first = (len(session.turns) - count) // 2 if start == "middle" else 0
    return ReplayWindow(session, first, count, block_tokens)
