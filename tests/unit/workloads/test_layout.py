import ast
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from session_strategies import BLOCK_TOKENS, ids, windows

from workloads import expected
from workloads.blocks import BlockRange, from_ranges, to_ranges
from workloads.expected import expected_read_bytes
from workloads.layout import Span, plan_session, safe_key
from workloads.trace import Session, Turn
from workloads.window import ReplayWindow


def written_objects(turn):
    prompt = [(span.key, turn.new_ids.tolist()) for span in turn.persist_prompt]
    generated = [
        (span.key, [block])
        for span, block in zip(turn.persist_generated, turn.generated_ids.tolist(), strict=True)
    ]
    return prompt + generated


@given(windows())
def test_reads_give_the_hit_prefix_from_objects_written_once_and_before(window):
    plan = plan_session(window)
    store = {plan.prime_key: plan.prime_ids.tolist()}
    for planned, turn in zip(plan.turns, window.turns, strict=True):
        read = [block for span in planned.reads for block in store[span.key][span.offset :][: span.blocks]]
        assert read == planned.hit_ids.tolist()
        assert sum(span.blocks for span in planned.reads) == len(read)
        assert np.array_equal(np.concatenate((planned.hit_ids, planned.new_ids)), turn.block_ids)
        for key, blocks in written_objects(planned):
            assert key not in store
            store[key] = blocks


@given(windows())
def test_persisted_blocks_are_the_newly_full_ones(window):
    for planned, turn in zip(plan_session(window).turns, window.turns, strict=True):
        persisted = sum(span.blocks for span in (*planned.persist_prompt, *planned.persist_generated))
        context_blocks = (turn.input_tokens + turn.output_tokens) // BLOCK_TOKENS
        assert persisted == context_blocks - len(planned.hit_ids)
        assert planned.tail_tokens == turn.input_tokens - len(turn.block_ids) * BLOCK_TOKENS
        assert planned.new_tokens >= 1
        assert planned.new_tokens - max(0, turn.input_tokens - planned.hit_tokens) in (0, 1)


@given(windows())
def test_spans_are_coalesced(window):
    for planned in plan_session(window).turns:
        for a, b in pairwise(planned.reads):
            assert (a.key, a.offset + a.blocks) != (b.key, b.offset)


@given(windows())
def test_prime_holds_only_blocks_that_are_hit(window):
    plan = plan_session(window)
    hit = {block for turn in plan.turns for block in turn.hit_ids.tolist()}
    assert set(plan.prime_ids.tolist()) <= hit
    assert len(set(plan.prime_ids.tolist())) == len(plan.prime_ids)


@given(st.lists(windows(), min_size=1, max_size=3), st.integers(1, 1000))
def test_expected_bytes_agree_with_planned_reads(chosen, full_block_bytes):
    read_blocks = sum(
        span.blocks for window in chosen for turn in plan_session(window).turns for span in turn.reads
    )
    assert expected_read_bytes(chosen, full_block_bytes) == read_blocks * full_block_bytes


def test_expected_bytes_share_no_code_with_the_read_path():
    tree = ast.parse(Path(expected.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"workloads.prefix", "workloads.layout", "workloads.blocks"}


def test_a_middle_turn_reads_prime_then_what_the_window_persisted():
    turns = (
        Turn(8, 4, ids([0, 1]), ids([2])),
        Turn(14, 6, ids([0, 1, 2]), ids([3, 4])),
        Turn(26, 1, ids([0, 1, 2, 3, 4, 5]), ids([])),
    )
    plan = plan_session(ReplayWindow(Session("a/b", turns), 1, 2, BLOCK_TOKENS))
    assert plan.prime_key == "a=2Fb/prime"
    assert plan.prime_ids.tolist() == [0, 1, 2]
    first, second = plan.turns
    assert (first.turn, first.reads, first.persist_prompt) == (1, (Span("a=2Fb/prime", 0, 3),), ())
    assert (first.hit_tokens, first.new_tokens, first.tail_tokens) == (12, 2, 2)
    assert second.reads == (
        Span("a=2Fb/prime", 0, 3),
        Span("a=2Fb/t1/generated-0", 0, 1),
        Span("a=2Fb/t1/generated-1", 0, 1),
    )
    assert second.persist_prompt == (Span("a=2Fb/t2/prompt", 0, 1),)


def test_a_fully_cached_prompt_still_computes_one_token():
    turns = (Turn(8, 1, ids([0, 1]), ids([])), Turn(8, 1, ids([0, 1]), ids([])))
    plan = plan_session(ReplayWindow(Session("s", turns), 1, 1, BLOCK_TOKENS))
    assert (plan.turns[0].hit_tokens, plan.turns[0].new_tokens) == (8, 1)


@given(st.lists(st.text(), unique=True, min_size=2, max_size=5))
def test_keys_are_safe_and_distinct(session_ids):
    keys = [safe_key(session_id) for session_id in session_ids]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert 0 < len(key) <= 120
        assert not set(key) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=~")


def test_long_ids_keep_distinct_keys():
    a, b = safe_key("x" * 5000), safe_key("x" * 4999 + "y")
    assert a != b
    assert len(a) <= 120


@given(st.lists(st.integers(0, 50)))
def test_ranges_round_trip(values):
    ranges = to_ranges(ids(values))
    assert from_ranges(ranges).tolist() == values
    assert all(a.first + a.count != b.first for a, b in pairwise(ranges))


def test_ranges_are_runs():
    assert to_ranges(ids([3, 4, 5, 9, 8])) == (BlockRange(3, 3), BlockRange(9, 1), BlockRange(8, 1))
