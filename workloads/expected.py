"""Theoretical hit bytes of a replay, from the trace alone: what a correct run must have read, exactly.

It shares no code with what plans the reads (prefix and layout), so that an error there shows as a
difference instead of cancelling out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from workloads.window import ReplayWindow


def expected_read_bytes(windows: Iterable[ReplayWindow], full_block_bytes: int) -> int:
    """Bytes that the replayed turns' hits amount to: each prompt block counts while it and all before it
    belong to an earlier turn of the session, replayed or not."""
    return full_block_bytes * sum(map(_hit_blocks, windows))


def _hit_blocks(window: ReplayWindow) -> int:
    seen: set[int] = set()
    blocks = 0
    for index, turn in enumerate(window.session.turns[: window.first_turn + window.turn_count]):
        if index >= window.first_turn:
            blocks += sum(1 for _ in takewhile(seen.__contains__, turn.block_ids.tolist()))
        seen.update(turn.block_ids.tolist(), turn.generated_block_ids.tolist())
    return blocks
