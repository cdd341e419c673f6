import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_files import load_rows

from workloads.formats import load_trace
from workloads.formats.minting import recorded_hit_rate
from workloads.prefix import hit_blocks, infinite_cache_hit_rate
from workloads.trace import TraceError


def row(**fields):
    return {"timestamp": 0, "input_length": 1100, "output_length": 500, "hash_ids": [7, 8, 9], **fields}


def prompts(trace):
    return [turn.block_ids.tolist() for session in trace.sessions for turn in session.turns]


def test_a_row_without_session_is_a_session_of_one_turn(tmp_path):
    trace = load_rows(tmp_path, row(), row(timestamp=27482, hash_ids=[7, 30, 31]))
    assert (trace.format, trace.block_tokens) == ("mooncake", 512)
    assert [(s.session_id, s.start_s) for s in trace.sessions] == [("trace/1", 0.0), ("trace/2", 27.482)]
    (turn,) = trace.sessions[0].turns
    assert (turn.input_tokens, turn.output_tokens, turn.gap_s) == (1100, 500, 0.0)
    assert len(turn.generated_block_ids) == (1100 + 500) // 512 - 1100 // 512


def test_ids_are_global_and_the_partly_filled_last_one_is_dropped(tmp_path):
    trace = load_rows(tmp_path, row(), row(), row(input_length=1024, hash_ids=[7, 30]))
    first, again, other = prompts(trace)
    assert first == again
    assert len(first) == 2
    assert (other[0], other[1] in first) == (first[0], False)
    generated = trace.sessions[0].turns[0].generated_block_ids.tolist()
    assert not set(generated) & {block for prompt in (first, other) for block in prompt}
    assert trace.provenance == {
        "infinite_cache_hit_rate_of_recorded_ids": f"{(1100 + 512) / 3224:.4f}",
        "partial_blocks_dropped": "2",
    }
    assert infinite_cache_hit_rate(trace) == pytest.approx((1024 + 512) / 3224)


def test_ids_are_global_in_a_folder_too(tmp_path):
    for name, ids in (("a.jsonl", [7, 8]), ("b.jsonl", [7, 9])):
        load_rows(tmp_path, row(input_length=1024, hash_ids=ids), name=name)
    (first, second) = prompts(load_trace(tmp_path))
    assert (first[0] == second[0], first[1] == second[1]) == (True, False)
    blocks = [
        block
        for session in load_trace(tmp_path).sessions
        for turn in session.turns
        for block in turn.generated_block_ids.tolist()
    ]
    assert not set(blocks) & {*first, *second}


def test_a_session_of_whole_prompts_with_delays(tmp_path):
    trace = load_rows(
        tmp_path,
        row(session_id="a", timestamp=2000),
        row(session_id="b", timestamp=2500),
        row(session_id="a", timestamp=None, delay=1500, input_length=1600, hash_ids=[7, 8, 10, 11]),
    )
    a, b = trace.sessions
    assert (a.session_id, a.start_s, b.start_s) == ("a", 2.0, 2.5)
    assert [turn.gap_s for turn in a.turns] == [0.0, 1.5]
    assert hit_blocks(a) == [0, 2]


def test_rows_without_ids_add_to_the_context(tmp_path):
    trace = load_rows(
        tmp_path,
        {"session_id": "a", "input_length": 600, "output_length": 500, "timestamp": 10},
        {"session_id": "a", "input_length": 100, "output_length": 40, "timestamp": 1010},
        {"session_id": "a", "input_length": 2000},
    )
    (session,) = trace.sessions
    assert [turn.input_tokens for turn in session.turns] == [600, 1200, 3240]
    assert [turn.output_tokens for turn in session.turns] == [500, 40, 1]
    assert [turn.gap_s for turn in session.turns] == [0.0, 1.0, 0.0]
    assert hit_blocks(session) == [0, 2, 2]
    assert trace.provenance == {
        "gaps_from_timestamps_start_to_start": "1",
        "gaps_missing_counted_as_none": "1",
        "requests_without_output_counted_as_one_token": "1",
    }


def test_context_mode_makes_a_row_the_whole_prompt(tmp_path):
    whole = {"session_id": "a", "context_mode": "message_array_with_responses", "output_length": 1}
    trace = load_rows(tmp_path, {**whole, "input_length": 1024}, {**whole, "input_length": 1536, "delay": 1})
    (session,) = trace.sessions
    assert [turn.input_tokens for turn in session.turns] == [1024, 1536]
    assert hit_blocks(session) == [0, 2]


def message(role, characters):
    return {"role": role, "content": "x" * characters}


def test_text_is_counted_by_the_named_tokenizer(tmp_path):
    history = [message("user", 8192)]
    longer = [*history, message("assistant", 40), message("user", 4096)]
    trace = load_rows(
        tmp_path,
        {"session_id": "h", "messages": history, "output_length": 10, "timestamp": 0},
        {"session_id": "h", "messages": longer, "output_length": 10, "delay": 2000},
        {
            "session_id": "d",
            "messages": history,
            "message_mode": "delta",
            "output_length": 24,
            "timestamp": 0,
        },
        {"session_id": "d", "messages": history, "message_mode": "delta", "output_length": 10, "delay": 0},
        {"text_input": "x" * 2049, "timestamp": 5},
        tokenizer="utf8-bytes/4",
    )
    assert [[turn.input_tokens for turn in s.turns] for s in trace.sessions] == [
        [2048, 2048 + 10 + 1024],
        [2048, 2048 + 24 + 2048],
        [513],
    ]
    assert [hit_blocks(session)[-1] for session in trace.sessions] == [4, 4, 0]
    assert trace.provenance["tokenizer"] == "utf8-bytes/4"


def test_the_tokenizer_is_part_of_a_text_traces_identity(tmp_path):
    text = load_rows(tmp_path, {"text_input": "some words"}, tokenizer="utf8-bytes/4")
    tokens = load_rows(tmp_path, row(), tokenizer="utf8-bytes/4")
    with_none = load_rows(tmp_path, row())
    assert text.sha256 != load_rows(tmp_path, {"text_input": "words"}, tokenizer="utf8-bytes/4").sha256
    assert tokens.sha256 == with_none.sha256
    assert "tokenizer" not in tokens.provenance


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(hash_ids=[1, 2, 3, 4]), "trace.jsonl:1: $.hash_ids: found 4 ids, expected 3, which 1100 tokens"),
        (row(hash_ids=["x"]), "trace.jsonl:1: $.hash_ids[0]: found 'x'"),
        (row(timestamp=-5), "trace.jsonl:1: $.timestamp: found -5"),
        ({"text_input": "hello"}, "trace.jsonl: found text without token counts, expected a tokenizer"),
        ({"input_length": None}, "trace.jsonl:1: found a request without input"),
        ({"input_length": 0}, "found no request"),
    ],
)
def test_bad_rows_give_one_clear_line(tmp_path, bad, message):
    with pytest.raises(TraceError) as caught:
        load_rows(tmp_path, bad)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_contexts_that_add_up_beyond_any_model_are_refused(tmp_path):
    rows = [{"session_id": "a", "input_length": 1 << 24, "output_length": 1}] * 2
    with pytest.raises(TraceError, match=r"trace\.jsonl:2: found a prompt of 33554433 tokens"):
        load_rows(tmp_path, *rows)


@st.composite
def chained_requests(draw):
    """Requests over a tree of 4-token blocks: (ids of all blocks, tokens), the last block perhaps partial."""
    requests, contexts = [], [[]]
    next_id = 0
    for _ in range(draw(st.integers(1, 8))):
        context = draw(st.sampled_from(contexts))
        kept = context[: draw(st.integers(0, len(context)))]
        fresh = draw(st.integers(0 if kept else 1, 3))
        ids = kept + list(range(next_id, next_id + fresh))
        next_id += fresh
        contexts.append(ids)
        requests.append((ids, len(ids) * 4 - (draw(st.integers(0, 3)) if fresh else 0)))
    return requests


@given(chained_requests())
def test_recorded_hit_rate_is_the_longest_common_prefix_with_any_request_before(requests):
    hits = [
        max((common_prefix(ids, before) for before, _ in requests[:index]), default=0)
        for index, (ids, _) in enumerate(requests)
    ]
    tokens = [tokens for _, tokens in requests]
    expected = sum(min(4 * hit, t) for hit, t in zip(hits, tokens, strict=True)) / sum(tokens)
    assert recorded_hit_rate(requests, 4) == pytest.approx(expected)


def common_prefix(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
