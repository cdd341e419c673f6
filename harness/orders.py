"""A planned turn and its placement as the order that the decode host gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from harness.scheduling import Placement, Request
from hosts.protocol import StoredObject, TurnOrder
from workloads.layout import BlockRange, SessionPlan, Span, StoredBlocks, TurnPlan, to_ranges

PRIME_PREFIX = "prime"


@dataclass(frozen=True, slots=True)
class TurnKeys:
    """Object keys of one agent's turns: what they persist goes below a prefix of their own, so that every
    repetition, and everyone who replays the same session, finds the storage as the first one did."""

    written_prefix: str

    def read(self, span: Span) -> Span:
        """Where a planned read really is: what was stored before the run is not below the prefix."""
        name = span.key.rpartition("/")[2]
        before = name == "prime" or name.isdigit()  # a session's past, or shared/N
        return Span(f"{PRIME_PREFIX if before else self.written_prefix}/{span.key}", span.offset, span.blocks)

    def written(self, key: str) -> str:
        """Where a planned object is persisted."""
        return f"{self.written_prefix}/{key}"


def prime_objects(sessions: Sequence[SessionPlan], shared: Sequence[StoredBlocks]) -> list[StoredObject]:
    """What has to be stored before the first repetition, for all of them."""
    pasts = [StoredBlocks(plan.prime_key, plan.prime_ids) for plan in sessions if len(plan.prime_ids)]
    return [
        StoredObject(f"{PRIME_PREFIX}/{blocks.key}", to_ranges(blocks.ids)) for blocks in (*shared, *pasts)
    ]


def request_for(turn_id: int, turn: TurnPlan) -> Request:
    """The turn as the request scheduler sees it."""
    return Request(turn_id, len(turn.hit_ids), turn.hit_tokens, turn.new_tokens, turn.output_tokens)


class _Blocks(NamedTuple):
    """A turn's blocks as an order has them; the keys of generated ones lack their repetition's prefix."""

    hit: tuple[BlockRange, ...]
    new: tuple[BlockRange, ...]
    persisted: tuple[BlockRange, ...]
    generated: tuple[tuple[Span | None, tuple[BlockRange, ...]], ...]


@cache
def blocks_of(turn: TurnPlan) -> _Blocks:
    """What every order for the turn has in common: made once, however often it is replayed."""
    persisted = np.flatnonzero(np.isin(turn.new_ids, turn.persist_ids)) if turn.persist_prompt else ()
    generated = zip(turn.persist_generated, turn.generated_ids.tolist(), strict=True)
    return _Blocks(
        hit=to_ranges(turn.hit_ids),
        new=to_ranges(turn.new_ids),
        persisted=to_ranges(np.asarray(persisted, dtype=np.int64)),
        generated=tuple((span, (BlockRange(block, 1),)) for span, block in generated),
    )


def order_for(request: Request, placement: Placement, turn: TurnPlan, keys: TurnKeys) -> TurnOrder:
    """Everything the hosts need to serve the turn."""
    reads = [keys.read(span) for span in turn.reads] if placement.moves else []
    decode_reads, prefill_reads = _split(reads, placement.decode_read_blocks)
    blocks = blocks_of(turn)
    return TurnOrder(
        turn_id=request.turn_id,
        moves=placement.moves,
        prefill_host=placement.prefill.host,
        prefill_engine=placement.prefill.rank,
        decode_engine=placement.decode.rank,
        hit_blocks=blocks.hit,
        decode_reads=tuple(decode_reads),
        prefill_reads=tuple(prefill_reads),
        new_blocks=blocks.new,
        prompt_key=keys.written(turn.persist_prompt[0].key) if turn.persist_prompt else "",
        persisted=blocks.persisted,
        generated=tuple(
            StoredObject(keys.written(span.key) if span else "", block) for span, block in blocks.generated
        ),
        hit_tokens=turn.hit_tokens,
        new_tokens=turn.new_tokens,
        tail_tokens=turn.tail_tokens,
        output_tokens=turn.output_tokens,
    )


def _split(spans: Sequence[Span], blocks: int) -> tuple[list[Span], list[Span]]:
    """The first ``blocks`` blocks of ``spans``, and the rest."""
    head: list[Span] = []
    rest: list[Span] = []
    for span in spans:
        taken = min(span.blocks, blocks)
        blocks -= taken
        if taken:
            head.append(Span(span.key, span.offset, taken))
        if taken < span.blocks:
            rest.append(Span(span.key, span.offset + taken, span.blocks - taken))
    return head, rest
