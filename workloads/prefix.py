"""Prefix hits under an infinite store: what every turn could read instead of compute.

Stored before a turn are the prompt and generated blocks of every turn before it. Whose turns those are
is the caller's choice: one session's own (the paper's replay, section 7), or all of several sessions',
which matters where they share block ids. Only full blocks are stored (section 4.1), so a turn's hit is
the longest leading run of its full prompt blocks that is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import numpy as np

from workloads.trace import BlockIds, Session, Trace


@dataclass(frozen=True, slots=True)
class Reuse:
    """Hits of several sessions that use one infinite store: ``hits[session][turn]`` in full blocks, and
    the ids of the blocks that occur in more than one of the sessions."""

    hits: tuple[tuple[int, ...], ...]
    shared: frozenset[int]


def reuse(sessions: Sequence[Session]) -> Reuse:
    """Serve all turns of the sessions in recorded order from one store that is empty at first.

    Almost all of a prompt repeats the session's previous context, so that part is compared as an array
    and only the blocks after it are looked up one by one.
    """
    hits: list[list[int]] = [[] for _ in sessions]
    contexts: list[BlockIds] = [np.empty(0, dtype=np.int64) for _ in sessions]
    first_user: dict[int, int] = {}
    shared: set[int] = set()
    for index, turn_index in recorded_order(sessions):
        turn = sessions[index].turns[turn_index]
        common = common_prefix_blocks(contexts[index], turn.block_ids)
        rest = turn.block_ids[common:].tolist()
        hits[index].append(common + sum(1 for _ in takewhile(first_user.__contains__, rest)))
        rest += turn.generated_block_ids.tolist()
        shared.update(block for block in rest if first_user.setdefault(block, index) != index)
        contexts[index] = np.concatenate((turn.block_ids, turn.generated_block_ids))
    return Reuse(tuple(map(tuple, hits)), frozenset(shared))


def recorded_order(sessions: Sequence[Session]) -> list[tuple[int, int]]:
    """(session index, turn index) of all turns by recorded time, ties in the order given.

    A turn's time is its session's start plus the gaps up to it: traces do not say how long serving took.
    """
    arrivals = [
        (arrival_s, index, turn_index)
        for index, session in enumerate(sessions)
        for turn_index, arrival_s in enumerate(
            accumulate((turn.gap_s for turn in session.turns[1:]), initial=session.start_s)
        )
    ]
    return [(index, turn_index) for _, index, turn_index in sorted(arrivals)]


def hit_blocks(session: Session) -> list[int]:
    """Hit length of every turn on its own session, in full blocks; the first turn's is 0."""
    return list(reuse([session]).hits[0])


def hit_and_input_tokens(session: Session, block_tokens: int) -> tuple[int, int]:
    """Hit tokens and prompt tokens, summed over the turns after the session's first."""
    later = list(zip(hit_blocks(session), session.turns, strict=True))[1:]
    hit_tokens = sum(min(hit * block_tokens, turn.input_tokens) for hit, turn in later)
    return hit_tokens, sum(turn.input_tokens for _, turn in later)


def hit_rate(trace: Trace) -> float:
    """Token-weighted hit rate of every session on itself: sum of hit tokens / sum of prompt tokens, first
    turns excluded.

    0.0 where no session has a second turn: nothing could hit.
    """
    sums = [hit_and_input_tokens(session, trace.block_tokens) for session in trace.sessions]
    input_tokens = sum(tokens for _, tokens in sums)
    return sum(hit for hit, _ in sums) / input_tokens if input_tokens else 0.0


def infinite_cache_hit_rate(trace: Trace) -> float:
    """Token-weighted hit rate of one infinite cache for all sessions, every turn of every session counted
    (first ones too: they hit what other sessions share), in recorded order. 0.0 for a trace of no turns."""
    hit_tokens = input_tokens = 0
    for session, hits in zip(trace.sessions, reuse(trace.sessions).hits, strict=True):
        for turn, hit in zip(session.turns, hits, strict=True):
            hit_tokens += min(hit * trace.block_tokens, turn.input_tokens)
            input_tokens += turn.input_tokens
    return hit_tokens / input_tokens if input_tokens else 0.0


def common_prefix_blocks(a: BlockIds, b: BlockIds) -> int:
    """Number of leading blocks that are the same in both."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
