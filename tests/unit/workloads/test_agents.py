import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_strategies import BLOCK_TOKENS, blocks_of, ids, related_sessions

from workloads.agents import agents_for
from workloads.layout import plan_replay
from workloads.prefix import hit_blocks, reuse
from workloads.synthesis import synthesize
from workloads.trace import Session, Trace, TraceError, Turn
from workloads.window import window_hit_rate

starts = st.sampled_from(("beginning", "middle", "random"))


def trace_of(*lengths):
    sessions = tuple(
        Session(f"s{i}", tuple(Turn(1, 1, ids([]), ids([])) for _ in range(n))) for i, n in enumerate(lengths)
    )
    return Trace("test", "0" * 64, BLOCK_TOKENS, sessions)


def test_middle_is_centred_and_beginning_is_not():
    (middle,) = agents_for(trace_of(10), 1, 4, "middle", 0)
    (beginning,) = agents_for(trace_of(10), 1, 4, "beginning", 0)
    assert (middle.first_turn, middle.turn_count, len(middle.turns)) == (3, 4, 4)
    assert (beginning.first_turn, beginning.turn_count) == (0, 4)


def test_random_starts_take_every_position():
    windows = agents_for(trace_of(*[6] * 200), 200, 4, "random", 0)
    assert {w.first_turn for w in windows} == {0, 1, 2}
    assert {w.turn_count for w in windows} == {4}


def test_none_replays_whole_sessions():
    chosen = agents_for(trace_of(3, 5), 2, None, "middle", 0)
    assert [(w.first_turn, w.turn_count) for w in chosen] == [(0, 3), (0, 5)]


def test_only_long_enough_sessions_are_drawn_once_and_the_seed_decides():
    trace = trace_of(*range(1, 41))
    first = agents_for(trace, 10, 20, "middle", 7)
    assert first == agents_for(trace, 10, 20, "middle", 7)
    assert first != agents_for(trace, 10, 20, "middle", 8)
    names = [w.session.session_id for w in first]
    assert len(set(names)) == 10
    assert all(len(w.session.turns) >= 20 for w in first)


def test_more_agents_than_sessions_take_every_session_and_then_copies():
    trace = trace_of(4, 1, 5)
    windows = agents_for(trace, 6, 3, "middle", 1)
    names = [w.session.session_id for w in windows]
    assert names[:2] == ["s0", "s2"]
    assert [w.session for w in windows[:2]] == [trace.sessions[0], trace.sessions[2]]
    assert len(set(names)) == 6
    for original in ("s0", "s2"):
        numbers = [int(name.partition("+")[2]) for name in names[2:] if name.startswith(f"{original}+")]
        assert numbers == list(range(2, 2 + len(numbers)))


@given(related_sessions(), st.integers(1, 12), starts, st.integers(0, 2**32))
def test_a_copy_grows_by_one_block_and_shares_nothing(related, agents, start, seed):
    trace = Trace("test", "0" * 64, BLOCK_TOKENS, related)
    windows = agents_for(trace, agents, None, start, seed)
    assert len(windows) == agents
    taken = set().union(*map(blocks_of, related))
    originals = {session.session_id: session for session in related}
    for window in windows[len(related) :]:
        copy, original = window.session, originals[window.session.session_id.partition("+")[0]]
        assert not taken & blocks_of(copy)
        taken |= blocks_of(copy)
        first, *rest = copy.turns
        assert (first.input_tokens, first.output_tokens, first.block_ids.tolist()) == (
            BLOCK_TOKENS - 1,
            1,
            [],
        )
        assert len(rest) == len(original.turns)
        for turn, recorded in zip(rest, original.turns, strict=True):
            assert turn.input_tokens == recorded.input_tokens + BLOCK_TOKENS
            assert turn.output_tokens == recorded.output_tokens
            assert turn.block_ids[:1].tolist() == first.generated_block_ids.tolist()
            assert len(turn.block_ids) == len(recorded.block_ids) + 1
            assert len(turn.generated_block_ids) == len(recorded.generated_block_ids)
        assert rest[0].gap_s == 0.0
        assert [turn.gap_s for turn in rest[1:]] == [turn.gap_s for turn in original.turns[1:]]
        assert hit_blocks(copy)[1:] == [hit + 1 for hit in hit_blocks(original)]


def test_copies_of_private_sessions_share_nothing_and_keep_the_reuse():
    trace = synthesize("paper-64k", 5, seed=1)
    windows = agents_for(trace, 12, 4, "middle", 0)
    assert not reuse([w.session for w in windows]).shared
    assert not plan_replay(windows).shared
    assert window_hit_rate(windows) == pytest.approx(window_hit_rate(windows[:5]), abs=0.02)


def test_copies_do_not_multiply_a_growing_prompts_memory():
    copy = agents_for(synthesize("paper-64k", 1, seed=1), 2, None, "beginning", 0)[1].session
    assert len({id(turn.block_ids.base) for turn in copy.turns[1:]}) == 1
    assert not np.shares_memory(copy.turns[1].block_ids, copy.turns[1].generated_block_ids)


def test_no_session_that_is_long_enough_says_so():
    with pytest.raises(
        TraceError, match=r"found no session of at least 10 turns among 3 \(the longest has 9"
    ):
        agents_for(trace_of(2, 9, 4), 2, 10, "middle", 0)


@pytest.mark.parametrize(("agents", "turns"), [(0, 1), (-1, None), (1, 0)])
def test_impossible_requests_are_refused(agents, turns):
    with pytest.raises(TraceError, match="expected at least 1 of each"):
        agents_for(trace_of(3), agents, turns, "middle", 0)
