"""Which turns of a session a run replays.

A replay may start in a session's middle, its earlier KV already stored, so that a short run has the
reuse of a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.prefix import reuse
from workloads.trace import Session, Turn


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


def window_hit_rate(windows: Sequence[ReplayWindow]) -> float:
    """Token-weighted hit rate of the replayed turns; 0.0 if none is counted.

    Hits are on every turn of the windows' sessions that was recorded before, also before a window.
    Sessions' very first turns count only if any sessions share blocks: else nothing could hit.
    """
    found = reuse([window.session for window in windows])
    first_counted = 0 if found.shared else 1
    hit_tokens = input_tokens = 0
    for window, hits in zip(windows, found.hits, strict=True):
        for index in range(max(first_counted, window.first_turn), window.first_turn + window.turn_count):
            turn = window.session.turns[index]
            hit_tokens += min(hits[index] * window.block_tokens, turn.input_tokens)
            input_tokens += turn.input_tokens
    return hit_tokens / input_tokens if input_tokens else 0.0
