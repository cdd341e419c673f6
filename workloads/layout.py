"""Where each KV block of a replay is stored: what a turn reads and what it persists.

Stored objects are extents of Full Blocks, written once and never changed:

- ``shared/N``: blocks that occur in more than one of the replay's sessions and that a replayed turn
  hits, written before the measurement, in the order in which they are first hit;
- ``SESSION/prime``: every other block from before the window that a replayed turn hits, likewise;
- ``SESSION/tK/prompt``: the full prompt blocks that turn K computes and that no other session has,
  written after its prefill;
- ``SESSION/tK/generated-I``: one block each, as the paper persists a block once it is full (section 4.1).

A turn hits what turns recorded before it have stored, its own session's or another's, so the plan is the
same whatever order a replay really serves the sessions in. That is why shared blocks are written up
front, and not by a turn: the first turn that has one computes it, but does not persist it.

A block that was stored twice (a prompt that left a prefix and came back to it) is read from where it
was stored first. Pure: the same windows always give the same plan, on every host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import msgspec
import numpy as np

from workloads.blocks import BlockRange, from_ranges, to_ranges
from workloads.prefix import reuse
from workloads.trace import BlockIds, Turn
from workloads.window import ReplayWindow

__all__ = [
    "BlockRange",
    "ReplayPlan",
    "SessionPlan",
    "Span",
    "StoredBlocks",
    "TurnPlan",
    "from_ranges",
    "plan_replay",
    "to_ranges",
]

_MAX_KEY_CHARACTERS = 120
_SHARED_OBJECT_BLOCKS = 2048
_OBJECT = 1 << 32
"""More than the blocks of any one object."""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """``blocks`` Full Blocks at block offset ``offset`` of the stored object ``key``."""

    key: str
    offset: int
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class TurnPlan:
    """One replayed turn. ``turn`` counts from the session's start. Equal only to itself.

    ``hit_ids`` + ``new_ids`` are the prompt's full blocks; ``reads`` concatenate to ``hit_ids``.
    ``persist_prompt`` (at most one span) stores ``persist_ids``: ``new_ids`` less the shared ones.
    ``persist_generated`` has one entry for each of ``generated_ids``: a span of one block, or None for
    a shared one. ``new_tokens`` are computed: all but the hit, and at least one, whose logits give
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
    persist_ids: BlockIds
    generated_ids: BlockIds
    reads: tuple[Span, ...]
    persist_prompt: tuple[Span, ...]
    persist_generated: tuple[Span | None, ...]


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """A window's turns and, under ``prime_key``, the blocks of this session alone that have to be stored
    before it starts (``prime_ids``, possibly none)."""

    session_id: str
    prime_key: str
    prime_ids: BlockIds
    turns: tuple[TurnPlan, ...]


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """An object of the blocks ``ids``, in order."""

    key: str
    ids: BlockIds


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A plan for each window, in order, and the objects that have to be stored before any starts."""

    sessions: tuple[SessionPlan, ...]
    shared: tuple[StoredBlocks, ...]


def plan_replay(windows: Sequence[ReplayWindow]) -> ReplayPlan:
    """Lay out the windows' blocks; every block read is in a shared object, in its session's prime, or was
    persisted by an earlier turn of its session."""
    found = reuse([window.session for window in windows])
    hits = [
        turns[window.first_turn : window.first_turn + window.turn_count]
        for window, turns in zip(windows, found.hits, strict=True)
    ]
    stored = _Stored()
    shared = _shared_objects(windows, hits, found.shared)
    for blocks in shared:
        stored.add(blocks.key, blocks.ids.tolist())
    sessions = tuple(
        _plan_session(window, window_hits, found.shared, stored)
        for window, window_hits in zip(windows, hits, strict=True)
    )
    return ReplayPlan(sessions, shared)


def safe_key(session_id: str) -> str:
    """A session id as one segment of an object key or file name: letters, digits, ``_`` and ``-`` stay,
    any other byte becomes ``=XX``, a long id is cut and ends in its hash. Different ids stay different."""
    encoded = session_id.encode("utf-8", "surrogatepass")
    key = re.sub(rb"[^A-Za-z0-9_-]", lambda match: b"=%02X" % match[0][0], encoded).decode()
    if 0 < len(key) <= _MAX_KEY_CHARACTERS:
        return key
    return f"{key[:50]}~{hashlib.sha256(encoded).hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Stored:
    """The place of every stored block. A place is one integer, the object's number and the offset in it,
    so that neighbours in an object are consecutive integers."""

    keys: list[str] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)

    def add(self, key: str, blocks: Iterable[int]) -> None:
        """Enter an object's blocks; one that is stored already keeps its first place."""
        for place, block in enumerate(blocks, start=len(self.keys) * _OBJECT):
            self.places.setdefault(block, place)
        self.keys.append(key)

    def spans(self, ids: BlockIds) -> tuple[Span, ...]:
        """Where the blocks are, in order, neighbours of one object joined."""
        places = _as_ids([self.places[block] for block in ids.tolist()])
        return tuple(
            Span(self.keys[run.first // _OBJECT], run.first % _OBJECT, run.count) for run in to_ranges(places)
        )


def _shared_objects(
    windows: Sequence[ReplayWindow], hits: Sequence[Sequence[int]], shared: frozenset[int]
) -> tuple[StoredBlocks, ...]:
    if not shared:
        return ()
    hit_ids = chain.from_iterable(map(_hit_ids, windows, hits))
    ids = _as_ids(list(dict.fromkeys(block for block in hit_ids if block in shared)))
    return tuple(
        StoredBlocks(f"shared/{number}", ids[begin : begin + _SHARED_OBJECT_BLOCKS])
        for number, begin in enumerate(range(0, len(ids), _SHARED_OBJECT_BLOCKS))
    )


def _plan_session(
    window: ReplayWindow, hits: Sequence[int], shared: frozenset[int], stored: _Stored
) -> SessionPlan:
    session_key = safe_key(window.session.session_id)
    prime_key = f"{session_key}/prime"
    prime_ids = _prime_ids(window, hits, shared)
    stored.add(prime_key, prime_ids)
    turns = tuple(
        _plan_turn(index, turn, hit, window.block_tokens, f"{session_key}/t{index}", shared, stored)
        for index, (turn, hit) in enumerate(zip(window.turns, hits, strict=True), start=window.first_turn)
    )
    return SessionPlan(window.session.session_id, prime_key, _as_ids(prime_ids), turns)


def _prime_ids(window: ReplayWindow, hits: Sequence[int], shared: frozenset[int]) -> list[int]:
    before: set[int] = set()
    for turn in window.session.turns[: window.first_turn]:
        before.update(turn.block_ids.tolist(), turn.generated_block_ids.tolist())
    hit_ids = _hit_ids(window, hits)
    return list(dict.fromkeys(block for block in hit_ids if block in before and block not in shared))


def _hit_ids(window: ReplayWindow, hits: Sequence[int]) -> Iterator[int]:
    for turn, hit in zip(window.turns, hits, strict=True):
        yield from turn.block_ids[:hit].tolist()


def _plan_turn(
    index: int,
    turn: Turn,
    hit: int,
    block_tokens: int,
    key: str,
    shared: frozenset[int],
    stored: _Stored,
) -> TurnPlan:
    """Plan one turn, then enter what it persists into ``stored``."""
    hit_ids, new_ids, generated_ids = turn.block_ids[:hit], turn.block_ids[hit:], turn.generated_block_ids
    reads = stored.spans(hit_ids)
    persist_ids = _as_ids([block for block in new_ids.tolist() if block not in shared])
    persist_prompt = (Span(f"{key}/prompt", 0, len(persist_ids)),) if len(persist_ids) else ()
    persist_generated = tuple(
        None if block in shared else Span(f"{key}/generated-{i}", 0, 1)
        for i, block in enumerate(generated_ids.tolist())
    )
    for span in persist_prompt:
        stored.add(span.key, persist_ids.tolist())
    for written, block in zip(persist_generated, generated_ids.tolist(), strict=True):
        if written is not None:
            stored.add(written.key, [block])
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
        persist_ids=persist_ids,
        generated_ids=generated_ids,
        reads=reads,
        persist_prompt=persist_prompt,
        persist_generated=persist_generated,
    )


def _as_ids(blocks: list[int]) -> BlockIds:
    return np.array(blocks, dtype=np.int64)
