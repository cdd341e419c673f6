"""Where each KV block of a replayed session is stored: what a turn reads and what it persists.

Stored objects are extents of Full Blocks, written once and never changed:

- ``SESSION/prime``: every block from before the window that a replayed turn hits, written before the
  measurement, in the order in which the window first hits them;
- ``SESSION/tK/prompt``: the full prompt blocks that turn K computes, written after its prefill;
- ``SESSION/tK/generated-I``: one block each, as the paper persists a block once it is full (section 4.1).

A block that was stored twice (a prompt that left a prefix and came back to it) is read from where it
was stored first. Pure: the same window always gives the same plan, on every host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from workloads.blocks import BlockRange, from_ranges, to_ranges
from workloads.prefix import hit_blocks
from workloads.trace import BlockIds, Turn
from workloads.window import ReplayWindow

__all__ = ["BlockRange", "SessionPlan", "Span", "TurnPlan", "from_ranges", "plan_session", "to_ranges"]

_MAX_KEY_CHARACTERS = 120


class Span(msgspec.Struct, frozen=True, array_like=True):
    """``blocks`` Full Blocks at block offset ``offset`` of the stored object ``key``."""

    key: str
    offset: int
    blocks: int


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """One replayed turn. ``turn`` counts from the session's start.

    ``hit_ids`` + ``new_ids`` are the prompt's full blocks; ``reads`` concatenate to ``hit_ids``,
    ``persist_prompt`` (at most one span) to ``new_ids``, ``persist_generated`` (one block a span) to
    ``generated_ids``. ``new_tokens`` are computed: all but the hit, and at least one, whose logits give
    the first token. ``tail_tokens`` fill the prompt's last block only partly: it is moved between hosts
    but not persisted.
    """

    turn: int
    input_tokens: int
    output_tokens: int
    hit_tokens: int
    new_tokens: int
    tail_tokens: int
    gap_s: float
    hit_ids: BlockIds
    new_ids: BlockIds
    generated_ids: BlockIds
    reads: tuple[Span, ...]
    persist_prompt: tuple[Span, ...]
    persist_generated: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """A window's turns and, under ``prime_key``, the blocks that have to be stored before it starts
    (``prime_ids``, possibly none)."""

    session_id: str
    prime_key: str
    prime_ids: BlockIds
    turns: tuple[TurnPlan, ...]


def plan_session(window: ReplayWindow) -> SessionPlan:
    """Lay out a window's blocks; every block read is in the prime or was persisted by an earlier turn."""
    session_key = safe_key(window.session.session_id)
    prime_key = f"{session_key}/prime"
    last = window.first_turn + window.turn_count
    hits = hit_blocks(window.session)[window.first_turn : last]
    prime_ids = _prime_ids(window, hits)
    stored_at = {block: (prime_key, offset) for offset, block in enumerate(prime_ids)}
    turns = tuple(
        _plan_turn(index, turn, hit, window.block_tokens, f"{session_key}/t{index}", stored_at)
        for index, (turn, hit) in enumerate(zip(window.turns, hits, strict=True), start=window.first_turn)
    )
    return SessionPlan(window.session.session_id, prime_key, _as_ids(prime_ids), turns)


def safe_key(session_id: str) -> str:
    """A session id as one segment of an object key or file name: letters, digits, ``_`` and ``-`` stay,
    any other byte becomes ``=XX``, a long id is cut and ends in its hash. Different ids stay different."""
    encoded = session_id.encode("utf-8", "surrogatepass")
    key = re.sub(rb"[^A-Za-z0-9_-]", lambda match: b"=%02X" % match[0][0], encoded).decode()
    if 0 < len(key) <= _MAX_KEY_CHARACTERS:
        return key
    return f"{key[:50]}~{hashlib.sha256(encoded).hexdigest()}"


def _prime_ids(window: ReplayWindow, hits: Sequence[int]) -> list[int]:
    before: set[int] = set()
    for turn in window.session.turns[: window.first_turn]:
        before.update(turn.block_ids.tolist(), turn.generated_block_ids.tolist())
    hit_ids = (
        block for turn, hit in zip(window.turns, hits, strict=True) for block in turn.block_ids[:hit].tolist()
    )
    return list(dict.fromkeys(block for block in hit_ids if block in before))


def _plan_turn(
    index: int, turn: Turn, hit: int, block_tokens: int, key: str, stored_at: dict[int, tuple[str, int]]
) -> TurnPlan:
    """Plan one turn, then enter what it persists into ``stored_at``."""
    hit_ids, new_ids, generated_ids = turn.block_ids[:hit], turn.block_ids[hit:], turn.generated_block_ids
    reads = _coalesced([stored_at[block] for block in hit_ids.tolist()])
    persist_prompt = (Span(f"{key}/prompt", 0, len(new_ids)),) if len(new_ids) else ()
    persist_generated = tuple(Span(f"{key}/generated-{i}", 0, 1) for i in range(len(generated_ids)))
    for offset, block in enumerate(new_ids.tolist()):
        stored_at.setdefault(block, (f"{key}/prompt", offset))
    for span, block in zip(persist_generated, generated_ids.tolist(), strict=True):
        stored_at.setdefault(block, (span.key, 0))
    hit_tokens = hit * block_tokens
    return TurnPlan(
        turn=index,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
        hit_tokens=hit_tokens,
        new_tokens=max(1, turn.input_tokens - hit_tokens),
        tail_tokens=turn.input_tokens % block_tokens,
        gap_s=turn.gap_s,
        hit_ids=hit_ids,
        new_ids=new_ids,
        generated_ids=generated_ids,
        reads=reads,
        persist_prompt=persist_prompt,
        persist_generated=persist_generated,
    )


def _coalesced(places: Sequence[tuple[str, int]]) -> tuple[Span, ...]:
    """Blocks at (key, offset) as spans, neighbours of one object joined."""
    spans: list[Span] = []
    for key, offset in places:
        if spans and spans[-1].key == key and spans[-1].offset + spans[-1].blocks == offset:
            spans[-1] = Span(key, spans[-1].offset, spans[-1].blocks + 1)
        else:
            spans.append(Span(key, offset, 1))
    return tuple(spans)


def _as_ids(blocks: list[int]) -> BlockIds:
    return np.array(blocks, dtype=np.int64)
