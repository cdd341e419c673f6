"""A run that did not finish is gone on with; a host that fails costs an attempt, not the run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from run_driver import NOTHING, CommandRun, assert_exact, dualpath, finish_exactly, write_experiment

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]


def write_six(directory: Path) -> Path:
    """Six repetitions, each long enough to be disturbed."""
    return write_experiment(
        directory, replay={"turns_per_agent": 6}, measurement={"repetitions": 3, "ceiling_s": 0.2}
    )


def measured_in(run: CommandRun) -> list[list[int]]:
    return [attempt["repetitions"] for attempt in run.metadata["attempts"]]


def test_a_control_node_killed_in_repetition_3_of_6(tmp_path: Path) -> None:
    with CommandRun(write_six(tmp_path), tmp_path) as killed:
        killed.until_line("2/6 dual_path: JCT")
        killed.pause()
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        before = killed.table("turns.parquet")
        assert set(before["repetition"]) == {0, 1}
    assert dualpath("cleanup").returncode == 0
    with CommandRun(None, tmp_path, "--resume", str(killed.directory), directory=killed.directory) as run:
        finish_exactly(run)
    assert measured_in(run) == [[0, 1], [2, 3, 4, 5]]
    assert [r["repetition"] for r in run.metadata["repetitions"]] == [0, 1, 2, 3, 4, 5]
    after = run.table("turns.parquet")
    assert after[after["repetition"] < 2].equals(before)
    assert run.summary["resumed"]
    assert run.summary["warnings"][0].startswith("resumed: repetitions 0-1 (began ")
    assert run.metadata["attempts"][0]["ended"] == "the control node ended without a word"
    assert not any("1/6" in line or "2/6" in line for line in run.errors)


def test_a_finished_run_is_only_reported(tmp_path: Path) -> None:
    with CommandRun(write_experiment(tmp_path), tmp_path) as run:
        finish_exactly(run)
    again = dualpath("run", "--resume", str(run.directory))
    assert again.returncode == run.process.returncode
    assert "report: " in again.stdout
    assert measured_in(run) == [[0, 1]]


def test_a_killed_agent_costs_one_attempt(tmp_path: Path) -> None:
    with CommandRun(write_six(tmp_path), tmp_path, "--retries", "1") as run:
        run.until_line("1/6 prefill_only: JCT")
        run.members()["d0"].send_signal(signal.SIGKILL)
        run.until_line("trying again: host d0: its agent process ended (killed by signal 9)")
        finish_exactly(run)
    first, second = measured_in(run)
    assert first[0] == 0
    assert second == list(range(first[-1], 6))
    assert "killed by signal 9" in run.metadata["attempts"][0]["ended"]
    kept = f"then repetitions {second[0]}-5 (began "
    assert kept in run.summary["warnings"][0]
    assert_exact(run)


def test_no_attempt_is_left(tmp_path: Path) -> None:
    with CommandRun(write_six(tmp_path), tmp_path, "--retries", "1") as run:
        for _ in range(2):
            run.until_line(" s  warming up")
            run.members()["d0"].send_signal(signal.SIGKILL)
        status, _, errors = run.end()
    assert status == 3
    assert errors.startswith("dualpath: host d0: its agent process ended (killed by signal 9), while ")
    assert "; the last lines of " in errors
    assert errors.count("\n") == 1
    assert run.leftovers() == NOTHING
