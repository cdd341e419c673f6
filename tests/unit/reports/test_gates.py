"""The table of gates: stable names, and which of them say nothing about a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder

from reports import StoredRun, analyse
from reports.gates import GATES, Judgement

# A CI's history of a test case ends where its name changes: names may join, none may change its meaning.
NAMES = [
    "run_ended",
    "repetitions_complete",
    "policies_measured",
    "bytes_read",
    "turns_served",
    "kv_content",
    "kv_checked",
    "storage_nics_sampled",
    "storage_nic_bytes",
    "compute_nic_bytes",
    "some_rate_served",
    "link_rate",
    "ceiling_measured",
    "decision_time",
    "control_cpu",
    "control_in_ttft",
    "cpu",
    "gpu_clocks",
]


def judgements(builder: StoredRunBuilder, directory: Path) -> dict[str, Judgement]:
    summary = analyse(StoredRun.load(builder.write(directory / "run")))
    assert [p.line for judged in summary.gates for p in judged.problems] == summary.problems
    return {judged.gate: judged for judged in summary.gates}


def skipped(judged: dict[str, Judgement]) -> dict[str, str]:
    return {name: judgement.skipped for name, judgement in judged.items() if judgement.skipped}


def test_names_are_stable_and_told_apart() -> None:
    assert [gate.identifier for gate in GATES] == NAMES
    assert len({gate.title for gate in GATES}) == len(GATES)


def test_a_sound_run_is_judged_by_all_that_apply(tmp_path: Path) -> None:
    judged = judgements(StoredRunBuilder(sessions=3, turns=3), tmp_path)
    assert list(judged) == NAMES
    assert not any(judgement.problems for judgement in judged.values())
    assert skipped(judged) == {
        "compute_nic_bytes": "no compute NIC was sampled",
        "some_rate_served": "offline: there is no SLO",
        "gpu_clocks": "no GPU was sampled",
    }


def test_a_problem_is_its_gates_alone(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=3, turns=3)
    builder.metadata["repetitions"][1]["mismatched_blocks"] = 2
    judged = judgements(builder, tmp_path)
    assert [name for name, judgement in judged.items() if judgement.problems] == ["kv_content"]
    [problem] = judged["kv_content"].problems
    assert (problem.where, problem.expected) == ("repetition 1 (dual_path)", "none")


def test_an_online_run_is_judged_by_its_rates(tmp_path: Path) -> None:
    points = {"prefill_only": [(0.2, "ttft_slo")], "dual_path": [(0.2, "time_limit")]}
    judged = judgements(StoredRunBuilder(sessions=3, turns=3, points=points), tmp_path)
    assert "some_rate_served" not in skipped(judged)
    assert judged["some_rate_served"].problems


@pytest.mark.parametrize("begun", [True, False])
def test_what_was_not_measured_passes_no_gate(begun: bool, tmp_path: Path) -> None:
    """A run that failed early has problems of its own; of its figures there is nothing to say."""
    builder = StoredRunBuilder(sessions=3, turns=3)
    builder.metadata |= {"status": "failed", "ceilings": {}}
    for repetition in builder.metadata["repetitions"]:
        repetition["complete"] = False
    if not begun:
        builder.metadata["repetitions"] = []
        builder.tables = {name: [] for name in builder.tables}
    judged = judgements(builder, tmp_path)
    silent = {name for name, judgement in judged.items() if not judgement.skipped and not judgement.problems}
    assert silent == ({"cpu"} if begun else {"repetitions_complete"})
    assert bool(judged["ceiling_measured"].problems) is begun
    assert {"bytes_read", "turns_served", "kv_content", "link_rate"} <= set(skipped(judged))


def test_loopback_skips_what_shares_an_interface(tmp_path: Path) -> None:
    judged = judgements(StoredRunBuilder(sessions=3, turns=3, mode="loopback"), tmp_path)
    assert {"storage_nics_sampled", "storage_nic_bytes", "link_rate"} <= set(skipped(judged))
    assert skipped(judged)["storage_nic_bytes"].startswith("all hosts share the loopback interface")
