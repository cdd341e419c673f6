"""A planned turn and a placement become the order that the hosts serve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.orders import TurnKeys, order_for, prime_objects, request_for
from harness.scheduling import Engine, Placement
from hosts.protocol import StoredObject
from workloads.agents import agents_for
from workloads.layout import SessionPlan, Span, StoredBlocks, from_ranges, plan_replay, to_ranges
from workloads.synthesis import synthesize

TRACE = synthesize("paper-64k", 10, 1, generated_scale=0.5)
PLANS = plan_replay(agents_for(TRACE, 5, 4, "middle", 1)).sessions
KEYS = TurnKeys("repetition2")
PREFILL, DECODE = Engine("p0", 3), Engine("d0", 5)
NOTHING_MOVES = Placement(PREFILL, DECODE, "none", 0, 0)


def split_at(blocks: int, decode_share: float) -> Placement:
    decode_blocks = round(blocks * decode_share)
    return Placement(PREFILL, DECODE, "split", blocks - decode_blocks, decode_blocks)


def positions(spans: tuple[Span, ...]) -> list[tuple[str, int]]:
    """Every block of the spans in order, by object and offset."""
    return [(span.key, span.offset + i) for span in spans for i in range(span.blocks)]


@given(
    plan=st.sampled_from(PLANS),
    index=st.integers(0, 3),
    decode_share=st.one_of(st.sampled_from((0.0, 1.0)), st.floats(0, 1)),
)
def test_an_order_carries_the_plan(plan: SessionPlan, index: int, decode_share: float) -> None:
    turn = plan.turns[index]
    placement = split_at(len(turn.hit_ids), decode_share)
    order = order_for(request_for(9, turn), placement, turn, KEYS)
    assert (order.turn_id, order.moves, order.prefill_host) == (9, True, "p0")
    assert (order.prefill_engine, order.decode_engine) == (3, 5)
    assert (order.hit_tokens, order.new_tokens, order.tail_tokens, order.output_tokens) == (
        turn.hit_tokens,
        turn.new_tokens,
        turn.tail_tokens,
        turn.output_tokens,
    )
    np.testing.assert_array_equal(from_ranges(order.hit_blocks), turn.hit_ids)
    np.testing.assert_array_equal(from_ranges(order.new_blocks), turn.new_ids)
    np.testing.assert_array_equal(turn.new_ids[from_ranges(order.persisted)], turn.persist_ids)
    assert [int(from_ranges(o.blocks)[0]) for o in order.generated] == turn.generated_ids.tolist()
    assert sum(span.blocks for span in order.decode_reads) == placement.decode_read_blocks
    planned = positions(tuple(KEYS.read(span) for span in turn.reads))
    assert positions((*order.decode_reads, *order.prefill_reads)) == planned


@given(plan=st.sampled_from(PLANS), index=st.integers(0, 3))
def test_the_past_is_everybodys_and_what_is_written_is_a_repetitions_own(
    plan: SessionPlan, index: int
) -> None:
    turn = plan.turns[index]
    order = order_for(request_for(1, turn), split_at(len(turn.hit_ids), 0.5), turn, KEYS)
    for span in (*order.decode_reads, *order.prefill_reads):
        assert span.key == f"prime/{plan.prime_key}" or span.key.startswith("repetition2/")
    written = [stored.key for stored in order.generated] + [order.prompt_key] * bool(order.prompt_key)
    assert all(key.startswith("repetition2/") for key in written)


@pytest.mark.parametrize(
    ("planned", "stored"),
    [
        ("s/prime", "prime/s/prime"),
        ("shared/7", "prime/shared/7"),
        ("s/t3/prompt", "repetition2/s/t3/prompt"),
        ("s/t3/generated-0", "repetition2/s/t3/generated-0"),
        ("7/t0/prompt", "repetition2/7/t0/prompt"),
    ],
)
def test_where_a_planned_read_is_stored(planned: str, stored: str) -> None:
    assert KEYS.read(Span(planned, 2, 3)) == Span(stored, 2, 3)


def test_what_a_turn_reads_was_primed_or_written_by_an_earlier_one() -> None:
    primed = {stored.key for stored in prime_objects(PLANS, ())}
    for plan in PLANS:
        there = set(primed)
        for turn in plan.turns:
            order = order_for(request_for(1, turn), split_at(len(turn.hit_ids), 1.0), turn, KEYS)
            assert {span.key for span in order.decode_reads} <= there
            there |= {order.prompt_key, *(stored.key for stored in order.generated)}


def test_shared_objects_and_sessions_pasts_are_primed_and_an_empty_past_is_not() -> None:
    ids = np.array([4, 5, 9])
    fresh = SessionPlan("new", "new/prime", ids[:0], ())
    old = SessionPlan("old", "old/prime", ids, ())
    assert prime_objects([fresh, old], [StoredBlocks("shared/0", ids[:2])]) == [
        StoredObject("prime/shared/0", to_ranges(ids[:2])),
        StoredObject("prime/old/prime", to_ranges(ids)),
    ]


def test_the_oracle_reads_nothing() -> None:
    turn = PLANS[0].turns[0]
    order = order_for(request_for(1, turn), NOTHING_MOVES, turn, KEYS)
    assert (order.moves, order.decode_reads, order.prefill_reads) == (False, (), ())
    assert order.hit_tokens == turn.hit_tokens
