import hashlib
import json

import pytest
from trace_files import GROWING, conversation, load, request

from workloads.prefix import hit_blocks


def test_a_conversation(tmp_path):
    trace = load(tmp_path, GROWING)
    (session,) = trace.sessions
    assert (trace.format, trace.block_tokens, session.session_id) == ("kv-cache-tester", 64, "c")
    assert [turn.gap_s for turn in session.turns] == [0.0, 6.0]
    assert [len(turn.generated_block_ids) for turn in session.turns] == [1, 0]
    assert hit_blocks(session) == [0, 2]
    assert trace.sha256 == hashlib.sha256(json.dumps(GROWING).encode()).hexdigest()


def test_missing_times_fall_back_to_differences_of_t(tmp_path):
    trace = load(
        tmp_path,
        conversation(
            request(0.0, 1, 1, [], api_time=4.0),
            request(10.0, 1, 1, []),
            request(13.0, 1, 1, []),
            request(12.0, 1, 1, []),
        ),
    )
    assert [turn.gap_s for turn in trace.sessions[0].turns] == [0.0, 6.0, 3.0, 0.0]
    assert trace.provenance == {"gaps_from_request_times": "3"}


@pytest.mark.parametrize("inner_start_s", [0.0, 30.0])
def test_sub_agents_are_sessions_at_relative_or_absolute_times(tmp_path, inner_start_s):
    agent = {
        "type": "subagent",
        "t": 50.0,
        "agent_id": "a1",
        "duration_ms": 20_000,
        "requests": [request(inner_start_s, 64, 1, [7]), request(inner_start_s + 5, 128, 1, [7, 8])],
    }
    trace = load(tmp_path, conversation(request(0.0, 64, 1, [7]), agent, request(60.0, 64, 1, [7])))
    own, sub = trace.sessions
    assert (sub.session_id, sub.parent_session_id, sub.start_s) == ("c/a1", "c", 30.0)
    assert (len(own.turns), len(sub.turns)) == (2, 2)
    assert not set(own.turns[0].block_ids.tolist()) & set(sub.turns[0].block_ids.tolist())


def test_nested_sub_agents_name_their_parents(tmp_path):
    inner = {"type": "subagent", "t": 2.0, "requests": [request(0.0, 1, 1, [])]}
    outer = {"type": "subagent", "t": 5.0, "agent_id": "a", "requests": [request(0.0, 1, 1, []), inner]}
    trace = load(tmp_path, conversation(request(0.0, 1, 1, []), outer))
    assert [(s.session_id, s.parent_session_id) for s in trace.sessions] == [
        ("c", None),
        ("c/a", "c"),
        ("c/a/agent_1", "c/a"),
    ]
    assert [s.start_s for s in trace.sessions] == [0.0, 5.0, 7.0]


def test_anomalies_are_decided_and_counted(tmp_path):
    empty_agent = {"type": "subagent", "t": 1.0, "agent_id": "a", "requests": []}
    trace = load(
        tmp_path,
        conversation(request(0.0, 0, 5, []), request(1.0, 64, 0, [1], type="s", think_time=1.0), empty_agent),
    )
    (session,) = trace.sessions
    assert [(turn.input_tokens, turn.output_tokens) for turn in session.turns] == [(64, 1)]
    assert trace.provenance == {
        "requests_without_input_dropped": "1",
        "requests_without_output_counted_as_one_token": "1",
        "sessions_without_requests_dropped": "1",
        "sub_agent_sessions": "1",
    }
