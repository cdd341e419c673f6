import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_files import load_rows

from workloads.formats.minting import Mint, TurnMint
from workloads.prefix import hit_blocks
from workloads.trace import TraceError


def event(kind, seconds):
    return {"event_type": kind, "timestamp": f"2026-06-01T05:40:{seconds:06.3f}Z"}


def agent_round(index, prefix, append, output, *events, **fields):
    return {
        "session_id": "s",
        "round_index": index,
        "input_tokens_total": prefix + append,
        "prefix_tokens": prefix,
        "newly_append_tokens": append,
        "output_tokens": output,
        "timing_events": list(events),
        "tools": [],
        **fields,
    }


def test_the_recorded_prefix_is_what_hits(tmp_path):
    trace = load_rows(
        tmp_path,
        agent_round(0, 640, 100, 50),  # the first prefix is other sessions': new ids
        agent_round(1, 738, 300, 200),
        agent_round(2, 1200, 64, 10),  # reaches into the output
        agent_round(3, 256, 128, 10),  # compaction, or a miss of the provider's cache
        agent_round(4, 5000, 1, 10),  # more than the session has: all of it
    )
    (session,) = trace.sessions
    assert (trace.format, trace.block_tokens) == ("tracelab", 64)
    assert [turn.input_tokens for turn in session.turns] == [740, 1038, 1264, 384, 5001]
    assert hit_blocks(session) == [0, 738 // 64, 1200 // 64, 4, (384 + 10) // 64]
    assert trace.provenance == {
        "gaps_missing_counted_as_none": "4",
        "rounds_that_keep_less_than_the_previous_prompt": "1",
    }


def test_gaps_run_from_the_last_output_to_the_last_input(tmp_path):
    trace = load_rows(
        tmp_path,
        agent_round(
            0, 0, 64, 1, event("user_message", 20.151), event("tool_call", 31.5), event("text", 31.0)
        ),
        agent_round(
            1, 64, 64, 1, event("tool_result", 31.7), event("tool_result", 50.9), event("tool_call", 54.8)
        ),
        agent_round(2, 64, 64, 1, event("tool_result", 54.0)),
        {**agent_round(0, 0, 64, 1, event("user_message", 30.151)), "session_id": "later"},
    )
    own, later = trace.sessions
    assert [turn.gap_s for turn in own.turns] == [0.0, pytest.approx(19.4), 0.0]
    assert (own.start_s, later.start_s) == (0.0, pytest.approx(10.0))


def test_without_times_the_longest_tool_latency_is_the_gap(tmp_path):
    tools = [{"tool_wall_latency_ms": 860}, {"tool_wall_latency_ms": 19291}, {"tool_wall_latency_ms": None}]
    trace = load_rows(tmp_path, agent_round(0, 0, 64, 1, tools=tools), agent_round(1, 64, 64, 1))
    assert [turn.gap_s for turn in trace.sessions[0].turns] == [0.0, 19.291]
    assert trace.provenance == {"gaps_from_tool_latencies": "1"}


def test_missing_and_contradictory_counts_are_decided_and_counted(tmp_path):
    trace = load_rows(
        tmp_path,
        agent_round(2, 130, 70, None, input_tokens_total=None),
        agent_round(1, 64, 64, 7, newly_append_tokens=5),
        agent_round(0, 0, 128, 7, prefix_tokens=None),
        agent_round(3, 0, 300, 7, prefix_tokens=None, newly_append_tokens=None),
        agent_round(4, 0, 0, 7, input_tokens_total=None, timing_events=None, tools=None),
    )
    (session,) = trace.sessions
    assert [turn.input_tokens for turn in session.turns] == [128, 128, 200, 300]
    assert [turn.output_tokens for turn in session.turns] == [7, 7, 1, 7]
    assert hit_blocks(session) == [0, 1, 2, 0]
    assert trace.provenance == {
        "gaps_missing_counted_as_none": "3",
        "requests_without_input_dropped": "1",
        "requests_without_output_counted_as_one_token": "1",
        "rounds_that_keep_less_than_the_previous_prompt": "2",
        "rounds_whose_split_does_not_add_up": "1",
        "rounds_without_split_counted_as_new": "1",
    }


def test_times_without_zone_are_refused(tmp_path):
    naive = {"event_type": "text", "timestamp": "2026-06-01T05:40:20"}
    with pytest.raises(TraceError, match=r"trace\.jsonl:1: \$\.timing_events\[0\]\.timestamp"):
        load_rows(tmp_path, agent_round(0, 0, 64, 1, naive))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60), st.integers(0, 30)), min_size=1, max_size=10),
    st.integers(1, 8),
)
def test_grown_prompts_hit_exactly_the_full_blocks_that_they_keep(rounds, block_tokens):
    minting, turns, expected = TurnMint(Mint(), block_tokens), [], []
    for kept_tokens, input_tokens, output_tokens in rounds:
        before = turns[-1] if turns else None
        prompt = minting.grown_prompt(before, kept_tokens, input_tokens)
        context = before.input_tokens + before.output_tokens if before else 0
        expected.append(min(kept_tokens, input_tokens, context) // block_tokens)
        turns.append(minting.turn(prompt, input_tokens, output_tokens, 0.0))
        filled = (turns[-1].input_tokens + turns[-1].output_tokens) // block_tokens
        assert len(prompt) == input_tokens // block_tokens
        assert len(prompt) + len(turns[-1].generated_block_ids) == filled
    for before, turn, kept in zip([None, *turns], turns, expected, strict=False):
        context = [*before.block_ids.tolist(), *before.generated_block_ids.tolist()] if before else []
        prompt = turn.block_ids.tolist()
        assert prompt[:kept] == context[:kept]
        assert not set(prompt[kept:]) & set(context)
