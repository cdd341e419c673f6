import pytest
from trace_files import load_rows

from workloads.prefix import hit_blocks
from workloads.trace import TraceError


def message(role, tokens, **fields):
    return {"role": role, "content": "abcd" * tokens, **fields}


SYSTEM, TASK = message("system", 100), message("user", 100)
ANSWER = message("assistant", 60)
RESULT = message("tool", 300, tool_call_id="c1")


def call(*messages, **fields):
    return {
        "session_id": "s",
        "model": "m",
        "input": list(messages),
        "output_length": 60,
        "pre_gap": 0.0,
        **fields,
    }


def load(tmp_path, *rows):
    return load_rows(tmp_path, *rows, tokenizer="utf8-bytes/4")


def test_a_shared_beginning_of_messages_keeps_its_blocks(tmp_path):
    trace = load(
        tmp_path,
        call(SYSTEM, TASK),
        call(SYSTEM, TASK, ANSWER, RESULT, pre_gap=2.5),
        call(SYSTEM, message("user", 10), pre_gap=1.0),  # compaction
        call(SYSTEM, TASK, session_id="t"),
    )
    own, other = trace.sessions
    assert (trace.format, trace.block_tokens) == ("lmcache-agentic", 64)
    assert [turn.input_tokens for turn in own.turns] == [200, 560, 110]
    assert [turn.gap_s for turn in own.turns] == [0.0, 2.5, 1.0]
    assert hit_blocks(own) == [0, 200 // 64, 100 // 64]
    assert not set(own.turns[0].block_ids.tolist()) & set(other.turns[0].block_ids.tolist())
    assert trace.provenance == {
        "starts": "not recorded: all sessions start at 0",
        "tokenizer": "utf8-bytes/4",
    }


def test_tool_calls_and_structured_content_are_counted(tmp_path):
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    plain = load(tmp_path, call(message("assistant", 10)))
    with_calls = load(tmp_path, call(message("assistant", 10, tool_calls=calls)))
    parts = load(tmp_path, call({"role": "user", "content": [{"type": "text", "text": "abcd" * 10}]}))
    empty = load(tmp_path, call(SYSTEM, {"role": "assistant", "content": None}))
    tokens = [trace.sessions[0].turns[0].input_tokens for trace in (plain, with_calls, parts, empty)]
    assert tokens[0] == 10
    assert tokens[1] > 20
    assert tokens[2] > 10
    assert tokens[3] == 100


def test_anomalies_are_decided_and_counted(tmp_path):
    trace = load(tmp_path, call(), call(SYSTEM), call(SYSTEM, TASK, pre_gap=None, output_length=0))
    assert [turn.output_tokens for turn in trace.sessions[0].turns] == [60, 1]
    assert trace.provenance["requests_without_input_dropped"] == "1"
    assert trace.provenance["gaps_missing_counted_as_none"] == "1"
    assert trace.provenance["requests_without_output_counted_as_one_token"] == "1"


def test_text_needs_a_tokenizer(tmp_path):
    with pytest.raises(TraceError) as caught:
        load_rows(tmp_path, call(SYSTEM))
    assert "found text without token counts, expected a tokenizer: utf8-bytes/4" in str(caught.value)
    assert "`--tokenizer utf8-bytes/4`" in str(caught.value)
