"""A planned turn and a placement become the order that the hosts serve."""

from __future__ import annotations

import numpy as np
from harness.policies.load import Engine, ReadPath
from hypothesis import given
from hypothesis import strategies as st

from harness.orders import TurnKeys, order_for, request_for
from harness.policies import Placement
from workloads.layout import SessionPlan, from_ranges, plan_session
from workloads.synthesis import synthesize
from workloads.window import select_windows

TRACE = synthesize("paper-64k", 10, 1, generated_scale=0.5)
PLANS = [plan_session(w) for w in select_windows(TRACE, 5, 4, "middle", 1)]


def placement(path: ReadPath) -> Placement:
    return Placement(Engine("p0", 3), Engine("d0", 5), path)


@given(plan=st.sampled_from(PLANS), index=st.integers(0, 3), path=st.sampled_from(["prefill", "decode"]))
def test_an_order_carries_the_plan(plan: SessionPlan, index: int, path: ReadPath) -> None:
    turn = plan.turns[index]
    order = order_for(request_for(9, turn), placement(path), plan, turn, TurnKeys("repetition2"))
    assert (order.turn_id, order.path, order.prefill_host) == (9, path, "p0")
    assert (order.prefill_engine, order.decode_engine) == (3, 5)
    np.testing.assert_array_equal(from_ranges(order.hit_blocks), turn.hit_ids)
    np.testing.assert_array_equal(from_ranges(order.new_blocks), turn.new_ids)
    assert sum(span.blocks for span in order.reads) == len(turn.hit_ids)
    assert len(order.generated) == len(turn.generated_ids)
    assert [int(from_ranges(o.blocks)[0]) for o in order.generated] == turn.generated_ids.tolist()


@given(plan=st.sampled_from(PLANS), index=st.integers(0, 3))
def test_the_past_is_shared_and_what_is_written_is_a_repetitions_own(plan: SessionPlan, index: int) -> None:
    turn, keys = plan.turns[index], TurnKeys("repetition2")
    order = order_for(request_for(1, turn), placement("prefill"), plan, turn, keys)
    past = keys.prime(plan).key
    assert past.startswith("prime/")
    for span in order.reads:
        assert span.key == past or span.key.startswith("repetition2/")
    written = [stored.key for stored in order.generated] + [order.prompt_key] * bool(order.prompt_key)
    assert all(key.startswith("repetition2/") for key in written)


def test_what_a_turn_reads_was_primed_or_written_by_an_earlier_one() -> None:
    keys = TurnKeys("repetition0")
    for plan in PLANS:
        there = {keys.prime(plan).key}
        for turn in plan.turns:
            order = order_for(request_for(1, turn), placement("decode"), plan, turn, keys)
            assert {span.key for span in order.reads} <= there
            there |= {order.prompt_key, *(stored.key for stored in order.generated)}


def test_the_oracle_reads_nothing() -> None:
    plan = PLANS[0]
    turn = plan.turns[0]
    order = order_for(request_for(1, turn), placement("none"), plan, turn, TurnKeys("r"))
    assert order.reads == ()
    assert order.hit_tokens == turn.hit_tokens
