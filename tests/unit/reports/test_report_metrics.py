from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from stored_run_builder import StoredRunBuilder

from reports import Summary, analyse
from reports.comparison import Metric
from reports.definitions import DEFINITIONS
from reports.latency import BREAKDOWN
from reports.metrics import PolicyMetrics
from reports.storage_nics import SnicMetrics
from reports.stored_run import StoredRun


@pytest.fixture(scope="module")
def summary(io_bound_run: Path) -> Summary:
    return analyse(StoredRun.load(io_bound_run))


def test_finds_the_speedup_that_the_simulated_nics_allow(summary: Summary) -> None:
    assert summary.valid, summary.problems
    assert summary.comparison is not None
    assert summary.comparison.speedup is not None
    assert summary.comparison.speedup.value == pytest.approx(2, rel=0.03)
    assert summary.comparison.significant
    assert summary.comparison.metric is Metric.JCT
    assert summary.storage_bandwidth_ratio == pytest.approx(2)
    assert "dual_path is 1.99x faster than prefill_only by JCT (95 % CI" in summary.verdict
    assert "decode storage NICs ran at 0 % of their measured ceiling" in summary.verdict


def test_utilization_is_payload_over_the_ceiling(summary: Summary) -> None:
    basic, dual = (summary.policies[name].storage_nic for name in ("prefill_only", "dual_path"))
    # The simulated NICs run at 98.5 % of their ceiling, and the first read is preceded by nothing.
    assert basic["p0"].busy_utilization == pytest.approx(0.985, abs=0.01)
    assert basic["d0"].busy_utilization == 0
    assert not basic["d0"].expected_busy
    assert basic["d0"].bytes == basic["d0"].written_bytes > 0
    for host in ("p0", "d0"):
        assert dual[host].expected_busy
        assert dual[host].busy_utilization == pytest.approx(0.985, abs=0.015)
        assert dual[host].counter_over_payload == pytest.approx(1514 / 1448, rel=0.01)
    assert "s0" not in basic


def test_parts_add_up_to_ttft(summary: Summary) -> None:
    for metrics in summary.policies.values():
        assert tuple(metrics.ttft_breakdown_s) == BREAKDOWN
        assert sum(metrics.ttft_breakdown_s.values()) == pytest.approx(metrics.ttft_s["mean"])
        assert metrics.ttft_breakdown_s["compute"] == pytest.approx(0.01)


def test_real_units_follow_the_scale(summary: Summary) -> None:
    metrics = summary.policies["dual_path"]
    assert metrics.jct_real_s == pytest.approx([value / 10 for value in metrics.jct_s])
    assert metrics.turns_per_real_s == pytest.approx([value * 10 for value in metrics.turns_per_s])
    nic = metrics.storage_nic["p0"]
    assert nic.ceiling_gbit_per_s is not None
    assert nic.ceiling_real_gbit_per_s == pytest.approx(nic.ceiling_gbit_per_s * 4000)


def test_totals_are_over_repetitions(summary: Summary) -> None:
    metrics = summary.policies["prefill_only"]
    assert len(metrics.jct_s) == len(metrics.turns_per_s) == 2
    assert metrics.bytes_read == metrics.bytes_expected == 2 * 16 * 12 * 600_000
    assert metrics.jct_cv is not None


def test_oracle_expects_and_reads_nothing(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=4, turns=4, order=("prefill_only", "dual_path", "oracle"))
    summary = analyse(StoredRun.load(builder.write(tmp_path / "run")))
    oracle = summary.policies["oracle"]
    assert oracle.bytes_read == oracle.bytes_expected == 0
    assert oracle.busy_window_share is None
    assert oracle.storage_nic["p0"].busy_utilization is None
    assert summary.valid, summary.problems
    assert {(pair.baseline, pair.contender) for pair in summary.pairwise} == {
        ("prefill_only", "dual_path"),
        ("prefill_only", "oracle"),
        ("dual_path", "oracle"),
    }


def test_compute_bound_run_is_told_apart(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=8, turns=8, read_bytes=20_000, compute_s=0.05, decode_s=0.01)
    summary = analyse(StoredRun.load(builder.write(tmp_path / "run")))
    assert "no significant difference" in summary.verdict
    assert summary.bottlenecks["dual_path"].startswith("bounded by prefill engines (100 % busy)")


def test_every_metric_has_a_definition() -> None:
    names = {definition.name.split(".")[0] for definition in DEFINITIONS}
    nic_names = {
        definition.name.rsplit(".", 1)[-1] for definition in DEFINITIONS if "HOST" in definition.name
    }
    obvious = {
        "bytes_expected",
        "bytes_written",
        "bytes_transferred",
        "verified_blocks",
        "mismatched_blocks",
        "jct_cv",
    }
    assert {"balance", "ablation", "online", "bound"} <= names
    for field in msgspec.structs.fields(PolicyMetrics):
        base = field.name.replace("_real", "")
        assert base in names | obvious | {"busy_window_share"}, field.name
    for field in msgspec.structs.fields(SnicMetrics):
        base = field.name.replace("_real", "")
        assert base in nic_names | {"role", "read_bytes", "written_bytes", "busy_gbit_per_s"}, field.name
