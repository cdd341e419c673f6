import pytest
from trace_files import load_rows

from workloads.formats import load_trace
from workloads.prefix import infinite_cache_hit_rate
from workloads.trace import TraceError


def chat(chat_id, parent, timestamp, tokens, hash_ids, **fields):
    return {
        "chat_id": chat_id,
        "parent_chat_id": parent,
        "timestamp": timestamp,
        "input_length": tokens,
        "output_length": 20,
        "type": "text",
        "turn": 1,
        "hash_ids": hash_ids,
        **fields,
    }


def test_chains_are_sessions_and_gaps_run_from_start_to_start(tmp_path):
    trace = load_rows(
        tmp_path,
        chat(55, -1, 10.5, 33, [1, 2, 3]),
        chat(60, -1, 11.0, 32, [1, 9]),
        chat(159, 55, 61.114, 64, [1, 2, 4, 5]),
    )
    assert (trace.format, trace.block_tokens) == ("bailian", 16)
    chain, single = trace.sessions
    assert (chain.session_id, chain.start_s, chain.parent_session_id) == ("55", 10.5, None)
    assert [turn.gap_s for turn in chain.turns] == [0.0, pytest.approx(50.614)]
    assert len(single.turns) == 1
    assert chain.turns[0].block_ids[0] == single.turns[0].block_ids[0]
    assert trace.provenance == {
        "gaps": "start to start: ends are not recorded",
        "infinite_cache_hit_rate_of_recorded_ids": f"{(16 + 32) / 129:.4f}",
        "partial_blocks_dropped": "1",
    }
    assert infinite_cache_hit_rate(trace) == pytest.approx((16 + 32) / 129)


def test_a_branch_is_a_session_whose_parent_is_the_one_it_left(tmp_path):
    trace = load_rows(
        tmp_path,
        chat(3, 1, 30, 48, [1, 2, 4]),
        chat(1, -1, 10, 32, [1, 2]),
        chat(2, 1, 20, 48, [1, 2, 3]),
        chat(4, 3, 40, 64, [1, 2, 4, 5]),
    )
    assert [(s.session_id, s.parent_session_id, len(s.turns), s.start_s) for s in trace.sessions] == [
        ("1", None, 2, 10.0),
        ("3", "1", 2, 30.0),
    ]
    assert trace.provenance["branches_made_sessions"] == "1"
    first, branch = (session.turns[-1].block_ids.tolist() for session in trace.sessions)
    assert first[:2] == branch[:2]


def test_a_missing_parent_begins_a_session_and_is_counted(tmp_path):
    trace = load_rows(tmp_path, chat(2, 1, 5, 16, [1]), chat(3, -1, 6, 0, []), chat(4, 3, 7, 16, [1]))
    assert [session.session_id for session in trace.sessions] == ["2", "4"]
    assert trace.provenance["chats_whose_parent_is_missing"] == "2"
    assert trace.provenance["requests_without_input_dropped"] == "1"


def test_a_chat_that_is_its_own_ancestor_cannot_be(tmp_path):
    trace = load_rows(tmp_path, chat(1, 2, 5, 16, [1]), chat(2, 1, 6, 32, [1, 2]))
    assert [(s.session_id, len(s.turns)) for s in trace.sessions] == [("1", 2)]


def test_bad_rows_give_one_clear_line(tmp_path):
    with pytest.raises(TraceError, match=r"trace\.jsonl:2: \$\.chat_id: found 1 again"):
        load_rows(tmp_path, chat(1, -1, 5, 16, [1]), chat(1, -1, 6, 16, [1]))
    with pytest.raises(TraceError, match=r"found 3 ids, expected 2, which 32 tokens need at 16 a block"):
        load_rows(tmp_path, chat(1, -1, 5, 32, [1, 2, 3]))


def test_a_git_lfs_pointer_is_not_data(tmp_path):
    path = tmp_path / "qwen.jsonl"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    with pytest.raises(TraceError, match="found a Git LFS pointer"):
        load_trace(path)
