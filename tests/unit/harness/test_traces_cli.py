"""The ``traces`` commands, each run as the terminal runs it."""

import json

import msgspec
import pytest
from typer.testing import CliRunner

from harness import traces_cli
from harness.traces_cli import traces
from workloads.formats import load_trace
from workloads.trace import TraceError

ROWS = [
    {"session_id": "a", "timestamp": 0, "input_length": 1536, "output_length": 9, "hash_ids": [0, 1, 2]},
    {"session_id": "a", "delay": 90_000, "input_length": 2048, "output_length": 9, "hash_ids": [0, 1, 2, 3]},
    {"timestamp": 5, "input_length": 600, "output_length": 9, "hash_ids": [0, 9]},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in ROWS))
    return path


def run(*arguments):
    result = CliRunner().invoke(traces, [str(argument) for argument in arguments])
    if isinstance(result.exception, TraceError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_inspect_prints_figures_counts_and_the_hint(rows):
    text = run("inspect", rows)
    assert "infinite_cache_hit_rate" in text
    assert "partial_blocks_dropped" in text
    assert "hint: sessions hit 75.0% of their later prompts" in text


def test_inspect_as_json_is_one_document(rows):
    document = json.loads(run("inspect", rows, "--json"))
    assert (document["block_ids"], document["sessions"], document["hit_rate"]) == ("shared", 2, 0.75)


def test_convert_shows_every_change_and_writes_what_it_says(rows, tmp_path):
    target = tmp_path / "t.jsonl"
    text = run("convert", rows, "-o", target, "--min-turns", 2, "--gap-cap", 60, "--block-tokens", 64)
    what = ("sessions with at least 2 turns", "gaps capped at 60 s", "blocks of 512 to 64 tokens")
    lines = text.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == list(what)
    assert all("hit rate 0.7500 -> 0.7500" in line for line in lines[:3])
    converted = load_trace(target)
    assert lines[3] == f"{target}: 1 sessions, sha256 {converted.sha256}"
    assert (converted.block_tokens, converted.sessions[0].turns[1].gap_s) == (64, 60.0)
    assert [converted.provenance[f"change {n}"] for n in (1, 2, 3)] == lines[:3]


def test_convert_without_changes_is_the_identity_on_its_own_files(rows, tmp_path):
    run("convert", rows, "-o", tmp_path / "a.jsonl")
    document = json.loads(run("convert", tmp_path / "a.jsonl", "-o", tmp_path / "b.jsonl", "--json"))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert document["changes"] == []


def test_convert_to_a_place_that_cannot_be_written(rows, tmp_path):
    with pytest.raises(TraceError, match="expected a file that can be written"):
        run("convert", rows, "-o", tmp_path / "nowhere" / "t.jsonl")


def test_synthesize_writes_a_trace(tmp_path):
    text = run("synthesize", "-o", tmp_path / "t.jsonl", "--sessions", 3, "--seed", 2)
    assert load_trace(tmp_path / "t.jsonl").sha256 in text


def test_fetch_lists_what_there_is_and_refuses_other_names():
    assert "mooncake-conversation" in run("fetch")
    with pytest.raises(TraceError, match="expected one of mooncake-conversation"):
        run("fetch", "x")


def test_fetch_puts_a_trace_into_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(traces_cli, "fetch", lambda trace, folder: folder / "file")
    text = run("fetch", "tracelab-example", "--to", tmp_path)
    assert str(tmp_path / "tracelab-example" / "file") in text
    assert "CC-BY-4.0" in text
