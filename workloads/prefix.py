"""Prefix hits of a session under an infinite store: what every turn could read instead of compute.

Stored before turn k are the prompt and generated blocks of all earlier turns of the same session;
hits never cross sessions (paper section 7, replay). Only full blocks are stored (section 4.1), so a
turn's hit is the longest leading run of its full prompt blocks that is stored.
"""

from __future__ import annotations

import numpy as np

from workloads.trace import BlockIds, Session, Trace


def hit_blocks(session: Session) -> list[int]:
    """Hit length of every turn, in full blocks; the first turn's is 0.

    Almost all of a prompt repeats the previous turn's context, so that part is compared as an array
    and only the blocks after it are looked up one by one.
    """
    hits: list[int] = []
    stored: set[int] = set()
    context: BlockIds = np.empty(0, dtype=np.int64)
    for turn in session.turns:
        common = common_prefix_blocks(context, turn.block_ids)
        hit = common
        rest = turn.block_ids[common:].tolist()
        for block in rest:
            if block not in stored:
                break
            hit += 1
        hits.append(hit)
        stored.update(rest)
        stored.update(turn.generated_block_ids.tolist())
        context = np.concatenate((turn.block_ids, turn.generated_block_ids))
    return hits


def hit_and_input_tokens(session: Session, block_tokens: int) -> tuple[int, int]:
    """Hit tokens and prompt tokens, summed over the turns after the session's first."""
    later = list(zip(hit_blocks(session), session.turns, strict=True))[1:]
    hit_tokens = sum(min(hit * block_tokens, turn.input_tokens) for hit, turn in later)
    return hit_tokens, sum(turn.input_tokens for _, turn in later)


def hit_rate(trace: Trace) -> float:
    """Token-weighted hit rate: sum of hit tokens / sum of prompt tokens, first turns excluded.

    0.0 where no session has a second turn: nothing could hit.
    """
    sums = [hit_and_input_tokens(session, trace.block_tokens) for session in trace.sessions]
    input_tokens = sum(tokens for _, tokens in sums)
    return sum(hit for hit, _ in sums) / input_tokens if input_tokens else 0.0


def common_prefix_blocks(a: BlockIds, b: BlockIds) -> int:
    """Number of leading blocks that are the same in both."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
