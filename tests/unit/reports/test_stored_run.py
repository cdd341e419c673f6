from __future__ import annotations

import json
from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder

from reports import ReportError, StoredRun, analyse
from reports.stored_run import (
    CLASS_COLUMNS,
    ERROR_COLUMNS,
    FORWARD_COLUMNS,
    GPU_COLUMNS,
    HOST_COLUMNS,
    NIC_COLUMNS,
    TRANSFER_COLUMNS,
    TURN_COLUMNS,
)


def test_reads_what_was_stored(io_bound_run: Path) -> None:
    run = StoredRun.load(io_bound_run)
    assert run.policies == ["prefill_only", "dual_path"]
    assert [r.repetition for r in run.complete("dual_path")] == [1, 2]
    assert [host.name for host in run.serving_hosts] == ["p0", "d0"]
    assert len(run.turns) == 4 * 16 * 12


def test_policies_are_in_the_order_of_the_experiment(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=2, turns=2, order=("prefill_only", "oracle", "dual_path"))
    builder.metadata["experiment"]["measurement"] = {"policies": ["oracle", "dual_path", "prefill_only"]}
    run = StoredRun.load(builder.write(tmp_path))
    assert run.policies == ["oracle", "dual_path", "prefill_only"]
    comparison = analyse(run).comparison
    assert comparison is not None
    assert (comparison.baseline, comparison.contender) == ("prefill_only", "dual_path")


def test_missing_tables_read_as_empty_ones(io_bound_run: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes((io_bound_run / "metadata.json").read_bytes())
    run = StoredRun.load(tmp_path)
    for table, columns in (
        (run.turns, TURN_COLUMNS),
        (run.transfers, TRANSFER_COLUMNS),
        (run.forwards, FORWARD_COLUMNS),
        (run.nic_samples, NIC_COLUMNS),
        (run.class_bytes, CLASS_COLUMNS),
        (run.error_counts, ERROR_COLUMNS),
        (run.gpu_samples, GPU_COLUMNS),
        (run.host_samples, HOST_COLUMNS),
    ):
        assert table.empty
        assert list(table.columns) == list(columns)


def test_a_run_from_before_rdma_counters_has_no_rdma_port(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=1)
    assert "rdma_kind" not in builder.tables["nics"][0]
    samples = StoredRun.load(builder.write(tmp_path)).nic_samples
    assert set(samples["rdma_port"]) == {""}
    assert set(samples["rdma_kind"]) == {"none"}
    assert not samples[["rdma_rx_bytes", "rdma_tx_bytes"]].any(axis=None)


def test_tables_without_rows_read_as_empty_ones(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=1)
    builder.tables = {name: [] for name in builder.tables}
    assert list(StoredRun.load(builder.write(tmp_path)).turns.columns) == list(TURN_COLUMNS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "expected a run directory"),
        (b"", "not the metadata of a run"),
        (b"\xff\xfe", "not the metadata of a run"),
        (b"[]", "not the metadata of a run"),
        (
            json.dumps({"format_version": 3}).encode(),
            "found format_version 3, expected 2; the run was made by a",
        ),
        (
            json.dumps({"format_version": 1}).encode(),
            "made by an older dualpath: report it with that version",
        ),
        (json.dumps({"format_version": 2, "run_id": 7}).encode(), "run_id"),
    ],
)
def test_what_is_not_a_run_is_said_so(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(ReportError, match=r"metadata\.json") as caught:
        StoredRun.load(tmp_path)
    assert says in str(caught.value)


def test_broken_and_foreign_tables_are_named(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=1)
    for row in builder.tables["turns"]:
        del row["read_ns"]
    with pytest.raises(ReportError, match=r"turns\.parquet: found no column read_ns"):
        StoredRun.load(builder.write(tmp_path))
    (tmp_path / "turns.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ReportError, match=r"turns\.parquet: not a readable Parquet file"):
        StoredRun.load(tmp_path)
