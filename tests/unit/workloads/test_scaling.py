import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_strategies import BLOCK_TOKENS, ids, related_sessions, same_sessions

from workloads.formats.canonical import content_sha256
from workloads.prefix import hit_blocks, hit_rate, reuse
from workloads.scaling import scale_trace, scaled_tokens
from workloads.synthesis import PAPER_TRACES, synthesize
from workloads.trace import Session, Trace, TraceError, Turn

SAME_SIZES = 1 + 1e-12
"""A scale that changes no size, but is not 1."""

scales = st.floats(0.05, 20)
one_session = related_sessions(max_sessions=1, max_turns=8)


def trace_of(*sessions):
    return Trace("test", "0" * 64, BLOCK_TOKENS, sessions)


def scaled_session(session, append_scale, generated_scale, limit=None):
    return scale_trace(trace_of(session), append_scale, generated_scale, limit).sessions[0]


def sizes(session):
    return [(turn.input_tokens, turn.output_tokens) for turn in session.turns]


@given(related_sessions())
def test_scales_of_1_are_the_identity(related):
    trace = trace_of(*related)
    assert scale_trace(trace, 1, 1, None) is trace


@given(one_session)
def test_unchanged_sizes_keep_every_hit_and_only_rename_blocks(related):
    (session,) = related
    scaled = scaled_session(session, SAME_SIZES, SAME_SIZES)
    assert sizes(scaled) == sizes(session)
    assert hit_blocks(scaled) == hit_blocks(session)
    renamed = set()
    for a, b in zip(session.turns, scaled.turns, strict=True):
        renamed.update(zip(a.block_ids.tolist(), b.block_ids.tolist(), strict=True))
        renamed.update(zip(a.generated_block_ids.tolist(), b.generated_block_ids.tolist(), strict=True))
    assert len({old for old, _ in renamed}) == len({new for _, new in renamed}) == len(renamed)


@given(one_session, scales, scales)
def test_scaled_turns_name_the_blocks_they_fill(related, append_scale, generated_scale):
    (session,) = related
    scaled = scaled_session(session, append_scale, generated_scale)
    assert len(scaled.turns) == len(session.turns)
    assert scaled.turns[0].input_tokens == session.turns[0].input_tokens
    for turn, recorded in zip(scaled.turns, session.turns, strict=True):
        prompt = turn.input_tokens // BLOCK_TOKENS
        assert turn.input_tokens >= 1
        assert turn.output_tokens == scaled_tokens(recorded.output_tokens, generated_scale)
        assert len(turn.block_ids) == prompt
        assert (
            len(turn.generated_block_ids) == (turn.input_tokens + turn.output_tokens) // BLOCK_TOKENS - prompt
        )
        assert turn.gap_s == recorded.gap_s


@given(one_session, scales, scales, st.sampled_from(("append", "generated")))
def test_a_larger_scale_shrinks_no_turn(related, a, b, which):
    (session,) = related
    small, large = (
        scaled_session(session, *((scale, SAME_SIZES) if which == "append" else (SAME_SIZES, scale)))
        for scale in sorted((a, b))
    )
    for less, more in zip(sizes(small), sizes(large), strict=True):
        assert less[0] <= more[0]
        assert less[1] <= more[1]


@given(one_session, scales, scales, st.integers(0, 200))
def test_a_limit_cuts_before_the_first_turn_that_passes_it(related, append_scale, generated_scale, spare):
    (session,) = related
    whole = scaled_session(session, append_scale, generated_scale)
    limit = sum(sizes(whole)[0]) + spare
    passing = [index for index, size in enumerate(sizes(whole)) if sum(size) > limit]
    cut = scaled_session(session, append_scale, generated_scale, limit)
    assert sizes(cut) == sizes(whole)[: min(passing, default=None)]


@given(st.integers(0, 1 << 50), st.floats(1e-6, 1e6))
def test_only_no_tokens_become_none(tokens, scale):
    scaled = scaled_tokens(tokens, scale)
    assert (scaled == 0) == (tokens == 0)
    assert scaled == pytest.approx(tokens * scale, abs=1) or scaled in (1, 1 << 40)


def test_a_limit_alone_keeps_the_ids_of_shared_sessions():
    twins = [
        Session(name, (Turn(8, 1, ids([7, 9]), ids([])), Turn(40, 1, ids(range(10)), ids([]))))
        for name in "ab"
    ]
    long = Session("long", (Turn(41, 0, ids(range(10)), ids([])),))
    cut = scale_trace(trace_of(*twins, long), 1, 1, 40)
    assert [session.session_id for session in cut.sessions] == ["a", "b"]
    assert [s.turns for s in cut.sessions] == [twin.turns[:1] for twin in twins]
    assert cut.provenance["sessions_left_out_by_scaling"] == "1"


@pytest.mark.parametrize("like", PAPER_TRACES)
def test_scaling_a_synthesized_trace_is_synthesizing_it_scaled(like):
    limit = PAPER_TRACES[like].max_agent_tokens
    later = scale_trace(synthesize(like, 8, 1), 2.0, 0.5, limit)
    direct = synthesize(like, 8, 1, append_scale=2.0, generated_scale=0.5)
    renamed = tuple(Session(s.session_id, s.turns) for s in direct.sessions)
    for a, b in zip(later.sessions, renamed, strict=True):
        assert sizes(a) == sizes(b)
        assert hit_blocks(a) == hit_blocks(b)


def test_a_compaction_keeps_its_shared_part():
    turns = (
        Turn(16, 4, ids([0, 1, 2, 3]), ids([4])),
        Turn(28, 4, ids([0, 1, 2, 3, 4, 5, 6]), ids([7])),  # appends 8
        Turn(22, 2, ids([0, 1, 2, 3, 4, 8]), ids([])),  # keeps 20, appends 2
    )
    scaled = scaled_session(Session("s", turns), 2.0, 3.0)
    assert sizes(scaled) == [(16, 12), (28 + 16, 12), (28 + 4, 6)]
    assert hit_blocks(scaled) == [0, 7, 7]


def test_a_return_to_an_earlier_context_finds_it_scaled():
    turns = (
        Turn(8, 8, ids([0, 1]), ids([2, 3])),
        Turn(4, 4, ids([10]), ids([11])),  # a side request
        Turn(20, 1, ids([0, 1, 2, 3, 4]), ids([])),  # continues the first turn
    )
    scaled = scaled_session(Session("s", turns), 3.0, 2.0)
    assert sizes(scaled) == [(8, 16), (4, 8), (24 + 12, 2)]
    assert hit_blocks(scaled) == [0, 0, 6]


def test_a_restated_output_is_not_appended():
    """As where a recorder does not know an output's blocks: the next prompt names its own."""
    turns = (
        Turn(8, 8, ids([0, 1]), ids([2, 3])),
        Turn(20, 4, ids([0, 1, 4, 5, 6]), ids([7])),  # restates 8, appends 4
    )
    scaled = scaled_session(Session("s", turns), 2.0, 3.0)
    assert sizes(scaled) == [(8, 24), (8 + 24 + 8, 12)]
    assert hit_blocks(scaled) == [0, 2]


def test_a_turn_of_no_output_stays_one():
    scaled = scaled_session(Session("s", (Turn(8, 0, ids([0, 1]), ids([])),)), 1, 5.0)
    assert sizes(scaled) == [(8, 0)]


def test_sessions_stay_apart_and_the_provenance_tells_the_change():
    trace = synthesize("paper-32k", 5, 1)
    scaled = scale_trace(trace, 0.5, 2.0, 32 * 1024)
    assert not reuse(scaled.sessions).shared
    assert scaled.sha256 == content_sha256(scaled) != trace.sha256
    assert scaled.provenance["scaled_from"] == f"dualpath-trace {trace.sha256}"
    assert scaled.provenance["hit_rate_before_scaling"] == f"{hit_rate(trace):.4f}"
    assert scaled.provenance["hit_rate_after_scaling"] == f"{hit_rate(scaled):.4f}"
    assert scaled.provenance["synthesized_like"] == "paper-32k"
    assert same_sessions(scaled.sessions, scale_trace(trace, 0.5, 2.0, 32 * 1024).sessions)


def test_growing_prompts_share_one_array():
    (session,) = scale_trace(synthesize("paper-32k", 1, 1), 2.0, 2.0, None).sessions
    assert len({id(turn.block_ids.base) for turn in session.turns}) == 1
    assert not np.shares_memory(session.turns[0].block_ids, session.turns[0].generated_block_ids)


def test_sessions_that_share_blocks_are_not_scaled_apart():
    twins = [Session(name, (Turn(8, 1, ids([0, 1]), ids([])),)) for name in "ab"]
    with pytest.raises(
        TraceError, match=r"found sessions that share blocks, and scales 2\.0 and 1, expected scales of 1"
    ):
        scale_trace(trace_of(*twins), 2.0, 1, None)


def test_a_limit_below_every_first_turn_is_refused():
    with pytest.raises(TraceError, match="found no session whose first turn fits into 8 tokens"):
        scale_trace(trace_of(Session("s", (Turn(8, 1, ids([0, 1]), ids([])),))), 1, 1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, None), "scaling: scales"),
        ((1, math.inf, None), "scaling: scales"),
        ((math.nan, 1, None), "scaling: scales"),
        ((1, 1, 0), "scaling: max_agent_tokens: found 0, expected 1 or more"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(TraceError, match=message):
        scale_trace(trace_of(), *arguments)
