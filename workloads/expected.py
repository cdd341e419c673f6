"""Theoretical hit bytes of a replay, from the trace alone: what a correct run must have read, exactly.

It shares no code with what plans the reads (prefix and layout), so that an error there shows as a
difference instead of cancelling out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from workloads.window import ReplayWindow


def expected_read_bytes(windows: Sequence[ReplayWindow], full_block_bytes: int) -> int:
    """Bytes that the replayed turns' hits amount to: each prompt block counts while it and all before it
    belong to a turn that was recorded earlier, replayed or not, in any of the windows' sessions."""
    seen: set[int] = set()
    blocks = 0
    for _, place, index in sorted(_recorded_turns(windows)):
        window = windows[place]
        turn = window.session.turns[index]
        if 0 <= index - window.first_turn < window.turn_count:
            blocks += sum(1 for _ in takewhile(seen.__contains__, turn.block_ids.tolist()))
        seen.update(turn.block_ids.tolist(), turn.generated_block_ids.tolist())
    return blocks * full_block_bytes


def _recorded_turns(windows: Sequence[ReplayWindow]) -> list[tuple[float, int, int]]:
    """(recorded second, window, turn) of every turn; a first turn comes when its session starts."""
    recorded = []
    for place, window in enumerate(windows):
        arrival_s = window.session.start_s
        for index, turn in enumerate(window.session.turns):
            arrival_s += turn.gap_s if index else 0.0
            recorded.append((arrival_s, place, index))
    return recorded
