"""Online runs: points that miss the SLO, that are within it, and a search that finds none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_driver import CommandRun, finish_exactly, write_experiment

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]

POLICIES = ("prefill_only", "dual_path")


def write_online(directory: Path, **rules: Any) -> Path:
    """Agents of two turns; windows short enough for a point in a few seconds."""
    return write_experiment(
        directory,
        scale={"bytes_divisor": 2048, "time_dilation": 2, "layers_divisor": 5},
        online={"window_s": 0.4, "lookback_s": 0.2, "tolerance": 2, "limit_s": 1, **rules},
    )


def outcomes(run: CommandRun) -> dict[str, dict[float, str]]:
    """Of every policy, by agents a second."""
    found = run.metadata["online"]
    return {
        policy: {point["agents_per_s"]: point["outcome"] for point in found[policy]["points"]}
        for policy in POLICIES
    }


def report(run: CommandRun) -> str:
    return (run.directory / "report.md").read_text().replace("\\", "")


def test_a_point_beyond_the_slo_and_one_within(tmp_path: Path) -> None:
    with CommandRun(write_online(tmp_path, agents_per_s=[400.0, 16.0], slo_ttft_s=0.15), tmp_path) as run:
        finish_exactly(run)
    online = run.summary["online"]
    for policy, found in outcomes(run).items():
        assert found == {400.0: "ttft_slo", 16.0: "steady"}
        assert online["policies"][policy]["max_agents_per_s"] == 16.0
        assert online["policies"][policy]["not_served_per_s"] == 400.0
        low, high = online["policies"][policy]["points"]
        assert (low["agents_per_s"], high["agents_per_s"]) == (16.0, 400.0)
        assert low["ttft_real_s"]["mean"] < 0.15 < high["ttft_real_s"]["mean"]
    assert [r["agents_per_s"] for r in run.metadata["repetitions"]] == [400.0, 400.0, 16.0, 16.0]
    assert [r["policy"] for r in run.metadata["repetitions"]] == [*POLICIES, *POLICIES[::-1]]
    assert all(r["stopped"] != "all_done" for r in run.metadata["repetitions"])
    text = report(run)
    assert "### Agents served within the SLO (TTFT <= 150 ms, TPOT <= 50 ms, real hardware)" in text
    assert "TTFT above the SLO" in text
    assert run.summary["comparison"] is None


def test_an_slo_that_nothing_meets(tmp_path: Path) -> None:
    """The search ends at its lowest rate; no answer is no valid result."""
    rules = {"search_from": 40.0, "search_to": 60.0, "resolution": 0.4, "slo_ttft_s": 0.0001}
    with CommandRun(write_online(tmp_path, **rules), tmp_path) as run:
        finish_exactly(run, "no policy meets the SLO: ")
    assert outcomes(run) == {policy: {40.0: "ttft_slo"} for policy in POLICIES}
    assert [run.metadata["online"][policy]["max_agents_per_s"] for policy in POLICIES] == [None, None]
    online = run.summary["online"]
    assert online["ratio"] is None
    for policy in POLICIES:
        words = (
            f"{policy} meets the SLO (TTFT <= 100 µs, TPOT <= 50 ms) at none of the arrival rates measured"
        )
        assert words in online["text"]
        assert words in report(run)
