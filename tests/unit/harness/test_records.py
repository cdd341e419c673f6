"""Records survive a control node that dies: repetitions that ended well are there again, and no others."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_turns import repetition, report, turn

from harness.recording import Repetition
from harness.records import Records
from harness.run_store import RunStore

ROLES = {"p0": "prefill"}
endings = st.lists(st.booleans(), max_size=5)


def ended(index: int, complete: bool, turns: int = 2) -> Repetition:
    recorded = repetition(index, [turn(number) for number in range(turns)], {"p0": report()})
    recorded.complete = complete
    return recorded


def record(endings: Sequence[bool]) -> Records:
    records = Records()
    for index, complete in enumerate(endings):
        records.add(ended(index, complete), ROLES)
    return records


def saved(records: Records, directory: Path) -> dict[str, bytes]:
    """Its files by name."""
    records.save(RunStore.create(directory, {}))
    tables = [path for path in directory.rglob("*.parquet")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in tables}


@settings(max_examples=20)
@given(endings)
def test_what_is_loaded_is_what_ended_well(endings: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kept = record(endings)
        kept.drop_incomplete()
        first, again, alone = (Path(directory, name) for name in ("first", "again", "alone"))
        saved(record(endings), first)
        loaded = Records.load(first)
        assert loaded.summaries == kept.summaries
        assert [summary["repetition"] for summary in loaded.summaries] == [
            index for index, complete in enumerate(endings) if complete
        ]
        assert saved(loaded, again) == saved(kept, alone)


@settings(max_examples=20)
@given(endings, endings)
def test_a_run_that_went_on_is_like_one_that_did_not_stop(before: list[bool], after: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        saved(record(before), Path(directory, "stopped"))
        resumed, whole = Records.load(Path(directory, "stopped")), record(before)
        whole.drop_incomplete()
        for records in (resumed, whole):
            for number, complete in enumerate(after):
                records.add(ended(len(before) + number, complete), ROLES)
                records.drop_incomplete()
        assert saved(resumed, Path(directory, "resumed")) == saved(whole, Path(directory, "whole"))


def test_a_table_that_is_younger_than_the_run_has_no_rows_yet(tmp_path: Path) -> None:
    saved(record([True]), tmp_path / "run")
    (tmp_path / "run" / "telemetry" / "gpus.parquet").unlink()
    records = Records.load(tmp_path / "run")
    records.add(ended(1, True), ROLES)
    saved(records, tmp_path / "resumed")
    assert set(pd.read_parquet(tmp_path / "resumed" / "telemetry" / "gpus.parquet")["repetition"]) == {1}
    assert set(pd.read_parquet(tmp_path / "resumed" / "turns.parquet")["repetition"]) == {0, 1}


def test_a_repetition_without_turns_changes_no_types(tmp_path: Path) -> None:
    records = record([True])
    empty = repetition(1)
    records.add(empty, ROLES)
    saved(records, tmp_path / "run")
    alone = record([True])
    saved(alone, tmp_path / "alone")
    for name in ("turns.parquet", "transfers.parquet"):
        with_empty, without = (pd.read_parquet(tmp_path / run / name) for run in ("run", "alone"))
        pd.testing.assert_frame_equal(with_empty, without)


def test_metadata_names_what_the_tables_have(tmp_path: Path) -> None:
    records = record([True, False])
    saved(records, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "metadata.json").read_bytes())["repetitions"]
    assert [(s["repetition"], s["complete"]) for s in stored] == [(0, True), (1, False)]
    turns = pd.read_parquet(tmp_path / "run" / "turns.parquet")
    assert sorted(set(turns["repetition"])) == [0, 1]
    assert [s["repetition"] for s in records.complete()] == [0]
