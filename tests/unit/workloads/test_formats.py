"""What holds for files of every format: folders, gzip, bad input."""

import gzip
import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_files import CANONICAL, GROWING, conversation, lines, load, load_rows, request

from workloads.formats import FORMATS, load_trace
from workloads.trace import TraceError


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


ROWS = {
    "mooncake": [
        {"timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [1, 2]},
        {"session_id": "a", "input_length": 600, "output_length": 9, "delay": 5},
        {"session_id": "a", "messages": [{"role": "user", "content": "hello"}], "message_mode": "delta"},
        {"text_input": "hello", "timestamp": 7},
    ],
    "bailian": [
        {"chat_id": i, "parent_chat_id": i - 1, "timestamp": i, "input_length": 17}
        | {"output_length": 2, "hash_ids": [1, i]}
        for i in (0, 1, 2)
    ],
    "tracelab": [
        {"session_id": "s", "round_index": i, "input_tokens_total": 128, "prefix_tokens": 64}
        | {"newly_append_tokens": 64, "output_tokens": 3, "tools": [{"tool_wall_latency_ms": 3}]}
        | {"timing_events": [{"event_type": "user_message", "timestamp": f"2026-06-01T05:40:0{i}Z"}]}
        for i in (0, 1)
    ],
    "lmcache-agentic": [
        {
            "session_id": "s",
            "input": [{"role": "user", "content": "x"}] * n,
            "output_length": 3,
            "pre_gap": 1.0,
        }
        for n in (1, 2)
    ],
}


def test_there_is_an_example_of_every_format_of_rows():
    others = {"dualpath-trace", "kv-cache-tester"}
    assert {*ROWS, *others} == {trace_format.name for trace_format in FORMATS}


@pytest.mark.parametrize("name", ROWS)
def test_formats_are_recognised_by_content_or_named(tmp_path, name):
    found = load_rows(tmp_path, *ROWS[name], tokenizer="utf8-bytes/4")
    named = load_rows(tmp_path, *ROWS[name], tokenizer="utf8-bytes/4", format=name)
    assert found.format == named.format == name
    assert found.sha256 == named.sha256
    with pytest.raises(TraceError):
        load_rows(tmp_path, *ROWS[name], format="kv-cache-tester")


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(TraceError, match=r"format: found 'csv', expected one of dualpath-trace, bailian, "):
        load_trace(tmp_path, format="csv")


def loads_or_trace_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        path.write_bytes(content)
        try:
            trace = load_trace(path, tokenizer="utf8-bytes/4")
        except TraceError as error:
            message = str(error)
        else:
            message = ""
            for session in trace.sessions:
                assert session.turns
                for turn in session.turns:
                    prompt = turn.input_tokens // trace.block_tokens
                    filled = (turn.input_tokens + turn.output_tokens) // trace.block_tokens
                    assert (len(turn.block_ids), len(turn.generated_block_ids)) == (prompt, filled - prompt)
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


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_rows_are_a_trace_or_a_trace_error(name, data):
    loads_or_trace_error(lines(data.draw(mutated(ROWS[name]))))


@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_damaged_bytes_are_a_trace_or_a_trace_error(position, byte, compressed):
    content = bytearray(json.dumps(GROWING).encode())
    if compressed:
        content = bytearray(gzip.compress(bytes(content), mtime=0))
    content[position % len(content)] = byte
    loads_or_trace_error(bytes(content))
