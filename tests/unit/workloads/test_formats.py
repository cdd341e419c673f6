import gzip
import hashlib
import json
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_strategies import same_sessions, traces

from workloads.formats import load_trace, write_trace
from workloads.prefix import hit_blocks
from workloads.trace import TraceError


def request(t, input_tokens, output_tokens, hash_ids, **fields):
    return {"t": t, "type": "n", "in": input_tokens, "out": output_tokens, "hash_ids": hash_ids, **fields}


def conversation(*requests, **fields):
    return {"id": "c", "block_size": 64, "hash_id_scope": "local", "requests": list(requests), **fields}


GROWING = conversation(
    request(0.0, 130, 70, [7, 3], api_time=4.0, think_time=0.0),
    request(10.0, 200, 10, [7, 3, 9], api_time=2.0, think_time=6.0),
)
CANONICAL = [
    {"format": "dualpath-trace", "version": 1, "block_tokens": 64, "provenance": {}},
    {
        "session_id": "s",
        "start_s": 0.0,
        "parent": None,
        "turns": [{"in": 130, "out": 70, "gap_s": 0.0, "blocks": [[0, 2]], "generated": [[2, 1]]}],
    },
]


def lines(documents):
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def load(tmp_path, content, name="trace.json"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_trace(path)


# --- kv-cache-tester --------------------------------------------------------------------------


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


# --- files and folders ------------------------------------------------------------------------


def test_gzip_has_the_identity_of_its_content(tmp_path):
    data = json.dumps(GROWING).encode()
    assert load(tmp_path, gzip.compress(data), "a.json.gz").sha256 == load(tmp_path, data).sha256


def test_a_folder_is_one_trace_whatever_is_compressed(tmp_path):
    other = {**GROWING, "id": "d"}
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir()
    packed.mkdir()
    for name, document in (("b.json", other), ("a.json", GROWING)):
        (plain / name).write_text(json.dumps(document))
        (packed / f"{name}.gz").write_bytes(gzip.compress(json.dumps(document).encode()))
    (plain / "notes.txt").write_text("not a trace")
    trace = load_trace(plain)
    assert [session.session_id for session in trace.sessions] == ["c", "d"]
    assert trace.sha256 == load_trace(packed).sha256
    assert (
        trace.sha256
        == hashlib.sha256(
            "".join(
                f"{name} {hashlib.sha256(json.dumps(document).encode()).hexdigest()}\n"
                for name, document in (("a.json", GROWING), ("b.json", other))
            ).encode()
        ).hexdigest()
    )
    ids = [set(session.turns[-1].block_ids.tolist()) for session in trace.sessions]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found a folder without trace files"),
        ({"a.json": GROWING, "b.json": GROWING}, "found session 'c', which a.json has too"),
        (
            {"a.json": GROWING, "b.json": {**GROWING, "id": "d", "block_size": 32, "requests": []}},
            "block size",
        ),
        ({"a.json": GROWING, "b.jsonl": CANONICAL}, "found format dualpath-trace, expected kv-cache-tester"),
    ],
)
def test_folders_that_are_no_trace(tmp_path, files, message):
    for name, content in files.items():
        data = lines(content) if isinstance(content, list) else json.dumps(content).encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TraceError) as caught:
        load_trace(tmp_path)
    assert message in str(caught.value)


# --- the project's own format -----------------------------------------------------------------


@settings(deadline=None)
@given(traces(), st.sampled_from(["t.jsonl", "t.jsonl.gz"]))
def test_canonical_round_trip(trace, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write_trace(trace, path)
        loaded = load_trace(path)
        assert same_sessions(loaded.sessions, trace.sessions)
        assert (loaded.block_tokens, loaded.provenance) == (trace.block_tokens, trace.provenance)
        again = Path(folder, "again.jsonl")
        write_trace(loaded, again)
        assert load_trace(again).sha256 == loaded.sha256


def test_converting_keeps_where_it_came_from(tmp_path):
    trace = load(tmp_path, GROWING)
    write_trace(trace, tmp_path / "converted.jsonl")
    converted = load_trace(tmp_path / "converted.jsonl")
    assert converted.provenance == {"source_format": "kv-cache-tester", "source_sha256": trace.sha256}
    assert same_sessions(converted.sessions, trace.sessions)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    trace = load(tmp_path, GROWING)
    target = tmp_path / "out" / "t.jsonl"
    target.parent.mkdir()
    target.write_text("old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workloads.formats.canonical.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_trace(trace, target)
    assert [path.name for path in target.parent.iterdir()] == ["t.jsonl"]
    assert target.read_text() == "old"


def test_written_files_have_ordinary_permissions(tmp_path):
    write_trace(load(tmp_path, GROWING), tmp_path / "t.jsonl")
    (tmp_path / "ordinary").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("t.jsonl", "ordinary")]
    assert modes[0] == modes[1]


# --- bad input --------------------------------------------------------------------------------

TRUNCATED_GZIP = gzip.compress(json.dumps(GROWING).encode())[:-12]
TRUNCATED_JSON = json.dumps(GROWING).encode()[:-30]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"


def with_request(**changes):
    return conversation({**request(0.0, 130, 70, [1, 2]), **changes})


def with_turn(**changes):
    header, session = CANONICAL
    return lines([header, {**session, "turns": [{**session["turns"][0], **changes}]}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "trace.json: found an empty file"),
        (b" \n", "trace.json: found an empty file"),
        (TRUNCATED_GZIP, "trace.json: found a damaged gzip stream"),
        (TRUNCATED_JSON, "trace.json: found malformed JSON (Input data was truncated)"),
        (b'{"requests": [}', "trace.json: found malformed JSON"),
        (b'{"requests":\n "\xff"}', "trace.json:2: found byte 0xff at offset 15, which is not UTF-8"),
        (LFS, "found a Git LFS pointer, expected the data it points to; run `git lfs pull`"),
        (b'{"timestamp": 1, "hash_ids": [1]}\n', 'found an unknown format beginning with \'{"timestamp"'),
        (b"hello", "found an unknown format"),
        (b'{"requests": ' + b"[" * 100_000, "trace.json: found malformed JSON"),
        (
            b'{"block_size":64,"requests":[' + b'{"type":"subagent","t":0,"requests":[' * 9000,
            "malformed JSON",
        ),
        ({"requests": []}, "trace.json: $: found an object with the keys requests, expected"),
        (conversation(), "found no request, expected at least one session with a turn"),
        (conversation(block_size=0), "trace.json: $.block_size: found 0, expected `int` >= 1"),
        (conversation(hash_id_scope="global"), "$.hash_id_scope: found 'global'"),
        (with_request(type="x"), "$.requests[0].type: found 'x'"),
        (
            with_request(**{"in": -1}),
            "$.requests[0].in: found -1, expected `int` >= 0; correct",
        ),
        (with_request(**{"in": "many"}), "$.requests[0].in: found 'many'"),
        (with_request(**{"in": 10**30}), "$.requests[0].in: found 10000"),
        (with_request(out=-5), "$.requests[0].out: found -5"),
        (with_request(t=-1.0), "$.requests[0].t: found -1.0"),
        (
            with_request(hash_ids=[1, 2, 3]),
            "$.requests[0].hash_ids: found 3 ids, expected 2, which 130 tokens",
        ),
        (with_request(hash_ids=[1, "x"]), "$.requests[0].hash_ids[1]: found 'x'"),
        (with_request(hash_ids=[1, 2**63]), "$.requests[0].hash_ids[1]: found 9223372036854775808"),
        (lines([{**CANONICAL[0], "version": 2}]), "trace.json:1: found 'dualpath-trace' version 2, expected"),
        (
            lines([{**CANONICAL[0], "colour": 1}]),
            "trace.json:1: $: found an object with the keys block_tokens",
        ),
        (lines(CANONICAL[:1]), "found no request"),
        (lines(CANONICAL)[:-9], "trace.json:2: found malformed JSON"),
        (with_turn(out=0), "trace.json:2: $.turns[0].out: found 0"),
        (with_turn(gap_s=-1), "trace.json:2: $.turns[0].gap_s: found -1"),
        (with_turn(blocks=[[0, 3]]), "trace.json:2: $.turns[0].blocks: found 3 blocks, expected 2"),
        (with_turn(generated=[]), "trace.json:2: $.turns[0].generated: found 0 blocks, expected 1"),
        (with_turn(blocks=[[0, 2, 1]]), "trace.json:2: $.turns[0].blocks[0]: found [0, 2, 1]"),
        (lines([*CANONICAL, CANONICAL[1]]), "found session 's', which trace.json has too"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, content, message):
    with pytest.raises(TraceError) as caught:
        load(tmp_path, content)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_path_too_long_for_the_system_is_an_error_of_the_trace(tmp_path):
    with pytest.raises(TraceError, match="found File name too long"):
        load_trace(tmp_path / ("x" * 300))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere\.json: found No such file or directory"):
        load_trace(tmp_path / "nowhere.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw, document):
    """The document with one value, key or element replaced or removed."""
    node = copy = json.loads(json.dumps(document))
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        if draw(st.booleans()):
            node[key] = draw(json_values)
        else:
            del node[key]
        return copy


def loads_or_trace_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        path.write_bytes(content)
        try:
            trace = load_trace(path)
        except TraceError as error:
            message = str(error)
        else:
            message = ""
            assert all(session.turns for session in trace.sessions)
        assert len(message.splitlines()) <= 1


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_trace_or_a_trace_error(content):
    loads_or_trace_error(content)


@settings(max_examples=300, deadline=None)
@given(mutated(GROWING) | mutated(conversation({"type": "subagent", "t": 3, **GROWING})))
def test_mutated_conversations_are_a_trace_or_a_trace_error(document):
    loads_or_trace_error(json.dumps(document).encode())


@settings(max_examples=300, deadline=None)
@given(mutated(CANONICAL))
def test_mutated_canonical_files_are_a_trace_or_a_trace_error(documents):
    loads_or_trace_error(lines(documents))


@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_damaged_bytes_are_a_trace_or_a_trace_error(position, byte, compressed):
    content = bytearray(json.dumps(GROWING).encode())
    if compressed:
        content = bytearray(gzip.compress(bytes(content), mtime=0))
    content[position % len(content)] = byte
    loads_or_trace_error(bytes(content))
