import ast
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from session_strategies import BLOCK_TOKENS, blocks_of, ids, related_windows, windows

from workloads import expected
from workloads.blocks import BlockRange, from_ranges, to_ranges
from workloads.expected import expected_read_bytes
from workloads.layout import Span, plan_replay, safe_key
from workloads.trace import Session, Turn
from workloads.window import ReplayWindow


def plan_session(window):
    plan = plan_replay([window])
    assert not plan.shared
    return plan.sessions[0]


def written_objects(turn):
    prompt = [(span.key, turn.persist_ids.tolist()) for span in turn.persist_prompt]
    generated = [
        (span.key, [block])
        for span, block in zip(turn.persist_generated, turn.generated_ids.tolist(), strict=True)
        if span is not None
    ]
    return prompt + generated


def shared_blocks(chosen):
    uses = Counter(block for window in chosen for block in blocks_of(window.session))
    return {block for block, sessions in uses.items() if sessions > 1}


@given(windows())
def test_reads_give_the_hit_prefix_from_objects_written_once_and_before(window):
    plan = plan_session(window)
    store = {plan.prime_key: plan.prime_ids.tolist()}
    for planned, turn in zip(plan.turns, window.turns, strict=True):
        read = [block for span in planned.reads for block in store[span.key][span.offset :][: span.blocks]]
        assert read == planned.hit_ids.tolist()
        assert sum(span.blocks for span in planned.reads) == len(read)
        assert np.array_equal(np.concatenate((planned.hit_ids, planned.new_ids)), turn.block_ids)
        assert np.array_equal(planned.persist_ids, planned.new_ids)
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


@given(related_windows())
def test_reads_find_their_blocks_in_any_order_of_sessions(chosen):
    """A session needs nothing that another one writes during the replay."""
    plan = plan_replay(chosen)
    shared_objects = {stored.key: stored.ids.tolist() for stored in plan.shared}
    keys = [*shared_objects]
    for session, window in zip(plan.sessions, chosen, strict=True):
        store = shared_objects | {session.prime_key: session.prime_ids.tolist()}
        keys.append(session.prime_key)
        for planned, turn in zip(session.turns, window.turns, strict=True):
            read = [
                block for span in planned.reads for block in store[span.key][span.offset :][: span.blocks]
            ]
            assert read == planned.hit_ids.tolist()
            assert read + planned.new_ids.tolist() == turn.block_ids.tolist()
            written = written_objects(planned)
            keys.extend(key for key, _ in written)
            store.update(written)
    assert len(set(keys)) == len(keys)


@given(related_windows())
def test_a_turn_hits_what_was_recorded_before_it(chosen):
    """The longest leading run of blocks of its own past, or that another session's earlier turn had."""

    def arrived(window, index):
        return window.session.start_s + sum(turn.gap_s for turn in window.session.turns[1 : index + 1])

    turns = sorted(
        (
            (arrived(w, index), place, index)
            for place, w in enumerate(chosen)
            for index in range(len(w.session.turns))
        )
    )
    plan = plan_replay(chosen)
    for at, (_, place, index) in enumerate(turns):
        window = chosen[place]
        if not window.first_turn <= index < window.first_turn + window.turn_count:
            continue
        before = [chosen[other].session.turns[i] for _, other, i in turns[:at]]
        stored = {b for t in before for b in (*t.block_ids.tolist(), *t.generated_block_ids.tolist())}
        prompt = window.session.turns[index].block_ids.tolist()
        longest = max(n for n in range(len(prompt) + 1) if set(prompt[:n]) <= stored)
        planned = plan.sessions[place].turns[index - window.first_turn]
        assert len(planned.hit_ids) == longest
        assert planned.hit_tokens == longest * BLOCK_TOKENS


@given(related_windows())
def test_shared_blocks_are_stored_once_and_by_no_turn(chosen):
    plan, shared = plan_replay(chosen), shared_blocks(chosen)
    stored = [block for stored in plan.shared for block in stored.ids.tolist()]
    hit = {b for session in plan.sessions for turn in session.turns for b in turn.hit_ids.tolist()}
    assert sorted(stored) == sorted(shared & hit)
    for session in plan.sessions:
        assert not shared & set(session.prime_ids.tolist())
        for turn in session.turns:
            written = [block for _, blocks in written_objects(turn) for block in blocks]
            due = [b for b in (*turn.new_ids.tolist(), *turn.generated_ids.tolist()) if b not in shared]
            assert written == due


@given(st.one_of(related_windows(), st.lists(windows(), min_size=1, max_size=3)), st.integers(1, 1000))
def test_expected_bytes_agree_with_planned_reads(chosen, full_block_bytes):
    plans = plan_replay(chosen).sessions
    read_blocks = sum(span.blocks for plan in plans for turn in plan.turns for span in turn.reads)
    assert expected_read_bytes(chosen, full_block_bytes) == read_blocks * full_block_bytes


def test_the_first_to_need_a_shared_block_computes_it_and_no_one_persists_it():
    early = Session("early", (Turn(14, 6, ids([0, 1, 2]), ids([3, 4])),), start_s=1.0)
    late = Session("late", (Turn(20, 1, ids([0, 1, 5, 6, 7]), ids([])),), start_s=2.0)
    plan = plan_replay([ReplayWindow(s, 0, 1, BLOCK_TOKENS) for s in (late, early)])
    (stored,) = plan.shared
    assert (stored.key, stored.ids.tolist()) == ("shared/0", [0, 1])
    (second,), (first,) = (session.turns for session in plan.sessions)
    assert (first.reads, first.new_tokens) == ((), 14)
    assert first.persist_ids.tolist() == [2]
    assert first.persist_prompt == (Span("early/t0/prompt", 0, 1),)
    assert second.reads == (Span("shared/0", 0, 2),)
    assert (second.new_tokens, second.persist_ids.tolist()) == (12, [5, 6, 7])


def test_a_generated_block_that_another_session_continues_is_shared():
    parent = Session("parent", (Turn(4, 8, ids([0]), ids([1, 2])),))
    child = Session("child", (Turn(13, 1, ids([0, 1, 3]), ids([])),), start_s=9.0)
    plan = plan_replay([ReplayWindow(s, 0, 1, BLOCK_TOKENS) for s in (parent, child)])
    first, second = (session.turns[0] for session in plan.sessions)
    assert first.persist_generated == (None, Span("parent/t0/generated-1", 0, 1))
    assert second.reads == (Span("shared/0", 0, 2),)


def test_many_shared_blocks_are_cut_into_several_objects():
    blocks = ids(range(5000))
    twins = [Session(name, (Turn(20_000, 1, blocks, ids([])),)) for name in "ab"]
    plan = plan_replay([ReplayWindow(session, 0, 1, BLOCK_TOKENS) for session in twins])
    assert [len(stored.ids) for stored in plan.shared] == [2048, 2048, 904]
    assert plan.sessions[0].turns[0].reads == ()
    assert plan.sessions[1].turns[0].reads == (
        Span("shared/0", 0, 2048),
        Span("shared/1", 0, 2048),
        Span("shared/2", 0, 904),
    )


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
