import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_strategies import BLOCK_TOKENS, ids, same_sessions, shared_traces

from workloads.formats import load_trace, write_trace
from workloads.prefix import hit_rate, infinite_cache_hit_rate, reuse
from workloads.trace import Session, Trace, TraceError, Turn
from workloads.transform import Figures, cap_gaps, figures, reblock, select


def blocks_fit(trace):
    for session in trace.sessions:
        for turn in session.turns:
            prompt = turn.input_tokens // trace.block_tokens
            filled = (turn.input_tokens + turn.output_tokens) // trace.block_tokens
            assert (len(turn.block_ids), len(turn.generated_block_ids)) == (prompt, filled - prompt)
    return True


@given(shared_traces(), st.sampled_from([1, 2]))
def test_smaller_blocks_hit_the_same_and_less_than_a_block_more(trace, block_tokens):
    """More where a prompt ends inside a block that its output fills and another prompt holds whole."""
    small, _ = reblock(trace, block_tokens)
    ratio = trace.block_tokens // block_tokens
    before, after = reuse(trace.sessions), reuse(small.sessions)
    assert tuple(tuple(hit // ratio for hit in turns) for turns in after.hits) == before.hits
    assert blocks_fit(small)


@given(shared_traces(), st.sampled_from([2, 3]))
def test_larger_blocks_hit_what_they_hold_whole(trace, ratio):
    large, _ = reblock(trace, ratio * BLOCK_TOKENS)
    before, after = reuse(trace.sessions), reuse(large.sessions)
    assert after.hits == tuple(tuple(hit // ratio for hit in turns) for turns in before.hits)
    assert blocks_fit(large)


@given(shared_traces(), st.sampled_from([1, 2]))
def test_there_and_back_hits_as_before(trace, block_tokens):
    back, _ = reblock(reblock(trace, block_tokens)[0], trace.block_tokens)
    assert reuse(back.sessions).hits == reuse(trace.sessions).hits


@given(shared_traces())
def test_the_same_block_size_changes_nothing(trace):
    same, change = reblock(trace, BLOCK_TOKENS)
    assert reuse(same.sessions).hits == reuse(trace.sessions).hits
    assert change.before == change.after


def test_ids_of_split_blocks():
    trace = Trace("test", "ab", 512, (Session("s", (Turn(600, 500, ids([7]), ids([9])),)),))
    (turn,) = reblock(trace, 256)[0].sessions[0].turns
    assert turn.block_ids.tolist() == [14, 15]
    assert turn.generated_block_ids.tolist() == [18, 19]
    (turn,) = reblock(trace, 128)[0].sessions[0].turns
    assert turn.block_ids.tolist() == [28, 29, 30, 31]
    assert turn.generated_block_ids.tolist() == [36, 37, 38, 39]
    (turn,) = reblock(trace, 64)[0].sessions[0].turns
    assert turn.generated_block_ids.tolist() == [73, 74, 75, 76, 77, 78, 79, 80]


@pytest.mark.parametrize("block_tokens", [0, 3, 6])
def test_other_ratios_are_refused(block_tokens):
    trace = Trace("test", "ab", 4, (Session("s", (Turn(8, 1, ids([0, 1]), ids([])),)),))
    with pytest.raises(TraceError, match=f"found {block_tokens} tokens, expected a divisor or multiple of"):
        reblock(trace, block_tokens)


def turns(count, gap_s=100.0):
    return tuple(Turn(8 + 4 * i, 1, ids(range(2 + i)), ids([]), gap_s * i) for i in range(count))


LONG = Session("long", turns(5))
SHORT = Session("short", (Turn(400, 1, ids(range(100, 200)), ids([])),), 3.0)
AGENT = Session("agent", turns(2), 5.0, "short")
TRACE = Trace("test", "ab", 4, (LONG, SHORT, AGENT), {"files": "3"})


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["long", "short", "agent"]),
        ({"min_turns": 2}, ["long", "agent"]),
        ({"max_context_tokens": 24}, ["long", "agent"]),
        ({"max_context_tokens": 23}, ["agent"]),
        ({"min_hit_rate": 0.7}, ["long"]),
        ({"sessions": 2}, ["long", "short"]),
        ({"min_turns": 2, "sessions": 1}, ["long"]),
    ],
)
def test_filters(filters, names):
    assert [session.session_id for session in select(TRACE, **filters)[0].sessions] == names


def test_a_selected_sub_agent_without_its_parent_has_none():
    assert [s.parent_session_id for s in select(TRACE)[0].sessions] == [None, None, "short"]
    assert [s.parent_session_id for s in select(TRACE, min_turns=2)[0].sessions] == [None, None]


def test_selecting_nothing_is_an_error():
    with pytest.raises(
        TraceError, match=r"found none of 3 sessions, expected sessions with at least 9 turns"
    ):
        select(TRACE, min_turns=9)


def test_capped_gaps():
    capped, change = cap_gaps(TRACE, 150.0)
    assert [turn.gap_s for turn in capped.sessions[0].turns] == [0, 100, 150, 150, 150]
    assert change.before == change.after
    with pytest.raises(TraceError, match="gap cap: found -1 s"):
        cap_gaps(TRACE, -1)


def test_changes_travel_with_the_trace_and_identify_it(tmp_path):
    selected, first = select(TRACE, min_turns=2)
    capped, second = cap_gaps(selected, 60)
    assert first.before == figures(TRACE) == Figures(3, 8, hit_rate(TRACE), infinite_cache_hit_rate(TRACE))
    assert first.after == second.before == figures(selected)
    assert str(first) == (
        "sessions with at least 2 turns: hit rate 0.7619 -> 0.7619, infinite cache "
        "0.1520 -> 0.7600, sessions 3 -> 2, turns 8 -> 7"
    )
    assert capped.provenance == {
        "files": "3",
        "change 1": str(first),
        "source_format": "test",
        "source_sha256": "ab",
        "change 2": str(second),
    }
    assert len({TRACE.sha256, selected.sha256, capped.sha256}) == 3
    write_trace(capped, tmp_path / "t.jsonl")
    assert load_trace(tmp_path / "t.jsonl").sha256 == capped.sha256


@given(shared_traces(), st.sampled_from([1, 2, 8]))
def test_what_is_written_is_what_was_changed(trace, block_tokens):
    changed, _ = reblock(trace, block_tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        write_trace(changed, path)
        loaded = load_trace(path)
    assert same_sessions(loaded.sessions, changed.sessions)
    assert loaded.sha256 == changed.sha256
