import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from session_strategies import same_sessions

from workloads.inspection import inspect
from workloads.synthesis import BLOCK_TOKENS, PAPER_TRACES, synthesize
from workloads.trace import TraceError

kinds = st.sampled_from(list(PAPER_TRACES))


def assert_matches_the_paper(like, seed):
    row, found = PAPER_TRACES[like], inspect(synthesize(like, 500, seed))
    assert found.mean_turns == pytest.approx(row.turns, rel=0.05)
    assert found.mean_append == pytest.approx(row.append_tokens, rel=0.05)
    assert found.mean_generated == pytest.approx(row.generated_tokens, rel=0.05)
    assert found.mean_total == pytest.approx(row.total_tokens, rel=0.05)
    assert found.mean_context == pytest.approx(row.context_tokens, rel=0.05)


@pytest.mark.parametrize("like", PAPER_TRACES)
def test_means_match_the_paper(like):
    assert_matches_the_paper(like, seed=0)


@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(kinds, st.integers(0, 2**64))
def test_means_match_the_paper_at_any_seed(like, seed):
    assert_matches_the_paper(like, seed)


def test_the_64k_trace_has_the_papers_reuse():
    assert inspect(synthesize("paper-64k", 100, 0)).hit_rate >= 0.98


@settings(max_examples=40, deadline=None)
@given(
    kinds,
    st.integers(1, 12),
    st.integers(0, 1000),
    st.floats(1e-6, 1e6),
    st.floats(1e-6, 1e6),
)
def test_sessions_are_append_only_and_within_the_mal(like, count, seed, append_scale, generated_scale):
    trace = synthesize(like, count, seed, append_scale, generated_scale)
    seen = set()
    for session in trace.sessions:
        assert len(session.turns) >= 2
        context_tokens, context = 0, np.empty(0, dtype=np.int64)
        for turn in session.turns:
            assert turn.input_tokens > context_tokens
            assert turn.output_tokens >= 1
            assert len(turn.block_ids) == turn.input_tokens // BLOCK_TOKENS
            assert np.array_equal(turn.block_ids[: len(context)], context)
            context_tokens = turn.input_tokens + turn.output_tokens
            context = np.concatenate((turn.block_ids, turn.generated_block_ids))
            assert len(context) == context_tokens // BLOCK_TOKENS
        assert context_tokens <= PAPER_TRACES[like].max_agent_tokens
        assert not seen & set(context.tolist())
        seen |= set(context.tolist())


def test_same_seed_same_trace_other_seed_other_trace():
    a, b, c = (synthesize("paper-32k", 5, seed) for seed in (1, 1, 2))
    assert a.sha256 == b.sha256 != c.sha256
    assert same_sessions(a.sessions, b.sessions)


def test_append_scale_multiplies_every_append_but_the_first_prompt():
    plain = synthesize("paper-32k", 3, 4).sessions
    scaled = synthesize("paper-32k", 3, 4, append_scale=2.0).sessions
    for a, b in zip(plain, scaled, strict=True):
        first, second = a.turns[:2]
        append = second.input_tokens - first.input_tokens - first.output_tokens
        assert b.turns[0].input_tokens == first.input_tokens
        assert b.turns[1].input_tokens == first.input_tokens + first.output_tokens + 2 * append
        assert len(b.turns) < len(a.turns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("paper-16k", 1, 0),
            "synthesis: like: found 'paper-16k', expected one of paper-32k, paper-48k, paper-64k",
        ),
        (("paper-32k", 0, 0), "synthesis: sessions: found 0, expected at least 1"),
        (("paper-32k", 1, -1), "synthesis: seed: found -1"),
        (("paper-32k", 1, 0, 0.0), "synthesis: scales: found"),
        (("paper-32k", 1, 0, 1.0, float("nan")), "synthesis: scales: found"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(TraceError) as caught:
        synthesize(*arguments)
    assert message in str(caught.value)
