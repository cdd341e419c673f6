import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_strategies import same_sessions, shared_traces, traces
from trace_files import CANONICAL, GROWING, lines, load, load_rows

from workloads.formats import load_trace, write_trace
from workloads.formats.canonical import as_canonical, encode_trace


@given(traces() | shared_traces(), st.sampled_from(["t.jsonl", "t.jsonl.gz"]))
def test_canonical_round_trip(trace, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write_trace(trace, path)
        loaded = load_trace(path)
        assert same_sessions(loaded.sessions, trace.sessions)
        assert (loaded.block_tokens, loaded.provenance) == (trace.block_tokens, trace.provenance)
        assert as_canonical(trace).sha256 == as_canonical(loaded).sha256 == loaded.sha256
        again = Path(folder, "again.jsonl")
        write_trace(loaded, again)
        assert again.read_bytes() == encode_trace(loaded) == encode_trace(trace)


def test_converting_keeps_where_it_came_from(tmp_path):
    trace = load(tmp_path, GROWING)
    write_trace(trace, tmp_path / "converted.jsonl")
    converted = load_trace(tmp_path / "converted.jsonl")
    assert converted.provenance == {"source_format": "kv-cache-tester", "source_sha256": trace.sha256}
    assert same_sessions(converted.sessions, trace.sessions)
    assert converted == replace(as_canonical(trace), sessions=converted.sessions)


def test_files_of_one_folder_have_ids_of_their_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines([CANONICAL[0], {**CANONICAL[1], "session_id": name}]))
    a, b = (session.turns[0] for session in load_trace(tmp_path).sessions)
    assert a.block_ids.tolist() == [0, 1]
    assert b.block_ids.tolist() == [3, 4]


def test_a_tokenizer_in_the_provenance_does_not_change_a_converted_trace(tmp_path):
    text = load_rows(tmp_path, {"text_input": "some words"}, tokenizer="utf8-bytes/4")
    write_trace(text, tmp_path / "converted.jsonl")
    converted = load_trace(tmp_path / "converted.jsonl", tokenizer="utf8-bytes/4")
    assert converted.provenance["tokenizer"] == "utf8-bytes/4"
    assert converted.sha256 == as_canonical(text).sha256


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
