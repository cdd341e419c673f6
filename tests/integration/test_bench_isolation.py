"""``dualpath bench isolation`` on a small emulated cluster: structure and sane relations, no performance."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from harness.bench.cli import bench
from harness.bench.isolation import bench_isolation
from harness.bench.isolation_grounds import EmulatedHosts
from harness.bench.isolation_plan import IsolationPlan
from harness.cluster import probe
from harness.host_error import HostError

OBSTACLE = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no network namespaces: {OBSTACLE}"),
]

# Two hosts with links of 40 Mbit/s, and a small batch: bursts of 10 to 35 ms every 50 ms or so.
SMALL = ["--hosts", "2", "--model", "dualpath-27b", "--bytes-divisor", "1600", "--time-dilation", "50"]


def test_a_short_run_of_all_scenarios() -> None:
    options = [*SMALL, "--seconds", "1", "--rounds", "1", "--json"]
    done = CliRunner().invoke(bench, ["isolation", *options])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    alone, kv, same, low = report["results"]
    assert [result["scenario"] for result in report["results"]] == [*report["rounds"]]
    kinds = ["all", "reduce_scatter", "all_gather", "dispatch", "combine"]
    for result in (alone, same, low):
        assert [times["collective"] for times in result["bursts"]] == kinds
        assert all(times["bursts"] > 0 and times["p50"] > 0 for times in result["bursts"])
        assert result["collectives_bytes_per_s"] > 0
    assert kv["bursts"] == []
    assert alone["bursts"][0]["slow_down_p50"] == 1
    assert same["bursts"][0]["slow_down_p50"] > 1

    link = 2 * report["compute_nic_bytes_per_s"]  # two hosts
    assert 0.5 * link < kv["kv_bytes_per_s"] < link
    assert alone["kv_bytes_per_s"] is None
    for result in (same, low):
        assert 0 < result["kv_bytes_per_s"] < link
        assert result["kv_of_remaining"] > 0
        assert 0.5 <= result["jain_fairness"] <= 1
        assert 0 <= result["isolation_leakage"]["kv"] < 1
    for rounds in report["rounds"].values():
        assert len(rounds) == 1


def test_a_skipped_baseline_leaves_nulls_in_the_table_too() -> None:
    options = [*SMALL, "--scenarios", "low_class", "--seconds", "0.5", "--rounds", "1"]
    done = CliRunner().invoke(bench, ["isolation", *options])
    assert done.exit_code == 0, done.output
    (row,) = [line for line in done.stdout.splitlines() if line.strip().startswith("KV low")]
    assert row.split().count("-") == 5  # both slow-downs, the share of the rest, both leakages
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_torch_collectives_are_kept_apart_from_kv_by_their_class() -> None:
    pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")
    options = [*SMALL, "--collectives", "gloo", "--seconds", "1", "--rounds", "1", "--json"]
    done = CliRunner().invoke(bench, ["isolation", *options])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["plan"]["collectives"] == "gloo"
    slow_down = {result["scenario"]: result["bursts"][0]["slow_down_p50"] for result in report["results"][2:]}
    assert slow_down["low_class"] < slow_down["same_class"]


def test_a_process_that_fails_is_named() -> None:
    plan = IsolationPlan(("kv",), 1, 0.2, 2, "dualpath-27b", "hopper-400g", 1600, 50, 64, 32_721, 10**9)
    with pytest.raises(HostError, match=r"host [dp]0: its kv traffic failed"):
        bench_isolation(plan, EmulatedHosts("network_namespaces"))
