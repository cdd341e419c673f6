"""A planned turn and a policy's decision as the order that the decode host gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.policies import Placement, Request
from hosts.protocol import StoredObject, TurnOrder
from workloads.layout import SessionPlan, Span, TurnPlan, to_ranges

PRIME_PREFIX = "prime"


@dataclass(frozen=True, slots=True)
class TurnKeys:
    """Object keys of one repetition: what it persists goes below its own prefix, so that every
    repetition finds the storage as the first one did."""

    written_prefix: str

    def prime(self, plan: SessionPlan) -> StoredObject:
        """The KV of a session's past, shared by all repetitions."""
        return StoredObject(f"{PRIME_PREFIX}/{plan.prime_key}", to_ranges(plan.prime_ids))

    def read(self, span: Span, prime_key: str) -> Span:
        """Where a planned read really is."""
        prefix = PRIME_PREFIX if span.key == prime_key else self.written_prefix
        return Span(f"{prefix}/{span.key}", span.offset, span.blocks)

    def written(self, key: str) -> str:
        """Where a planned object is persisted."""
        return f"{self.written_prefix}/{key}"


def request_for(turn_id: int, turn: TurnPlan) -> Request:
    """The turn as policies see it."""
    return Request(turn_id, turn.hit_tokens, turn.new_tokens)


def order_for(
    request: Request, placement: Placement, plan: SessionPlan, turn: TurnPlan, keys: TurnKeys
) -> TurnOrder:
    """Everything the hosts need to serve the turn."""
    moves = placement.path != "none"
    generated = zip(turn.persist_generated, turn.generated_ids.tolist(), strict=True)
    return TurnOrder(
        turn_id=request.turn_id,
        path=placement.path,
        prefill_host=placement.prefill.host,
        prefill_engine=placement.prefill.rank,
        decode_engine=placement.decode.rank,
        hit_blocks=to_ranges(turn.hit_ids),
        reads=tuple(keys.read(span, plan.prime_key) for span in turn.reads) if moves else (),
        new_blocks=to_ranges(turn.new_ids),
        prompt_key=keys.written(turn.persist_prompt[0].key) if turn.persist_prompt else "",
        generated=tuple(
            StoredObject(keys.written(span.key), to_ranges(np.array([block]))) for span, block in generated
        ),
        hit_tokens=turn.hit_tokens,
        new_tokens=turn.new_tokens,
        tail_tokens=turn.tail_tokens,
        output_tokens=turn.output_tokens,
    )
