"""Runs that compare parts of the engine, or read one turn through both hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_driver import CommandRun, finish_exactly, write_experiment

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]

SCALE = {"bytes_divisor": 2048, "time_dilation": 4, "layers_divisor": 5}
STEPS = ["basic", "layerwise", "layerwise_dual_path", "dual_path"]
PAPER_REDUCTIONS = [None, 0.1721, 0.3819, 0.4562]  # paper 7.4


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """The paper's four steps, a repetition each."""
    workplace = tmp_path_factory.mktemp("ablation")
    experiment = write_experiment(
        workplace,
        replay={"agents": 12},
        scale=SCALE,
        variants={
            "basic": {"policy": "prefill_only", "layerwise": False, "scheduling": False},
            "layerwise": {"policy": "prefill_only", "scheduling": False},
            "layerwise_dual_path": {"policy": "dual_path", "scheduling": False},
        },
        measurement={"policies": STEPS, "baseline": "basic", "contender": "dual_path"},
    )
    with CommandRun(experiment, workplace) as run:
        finish_exactly(run)
    return run


def test_every_step_reads_the_same_bytes_along_its_own_paths(ablation: CommandRun) -> None:
    assert [repetition["policy"] for repetition in ablation.metadata["repetitions"]] == STEPS
    assert len({repetition["read_bytes"] for repetition in ablation.metadata["repetitions"]}) == 1
    turns = ablation.table("turns.parquet")
    paths = turns.groupby("policy")["path"].agg(set)
    assert paths["basic"] == paths["layerwise"] == {"prefill"}
    assert paths["layerwise_dual_path"] == {"prefill", "decode"}  # in turn
    assert paths["dual_path"] <= {"prefill", "decode"}
    waits_ns = turns.groupby("policy")["hbm_wait_ns"].max()
    assert (waits_ns[STEPS[1:]] == 0).all()


def test_ablation_table_follows_the_paper(ablation: CommandRun) -> None:
    steps = ablation.summary["ablation"]
    assert [step["name"] for step in steps] == STEPS
    assert [step["paper_reduction"] for step in steps] == PAPER_REDUCTIONS
    assert all(step["agent_jct_s"]["value"] > 0 for step in steps)
    _, _, table = (ablation.directory / "report.md").read_text().partition("### Ablation")
    rows = [line.split("|")[1].strip() for line in table.splitlines()[4 : 4 + len(STEPS)]]
    assert [row.replace("\\", "") for row in rows] == STEPS


def test_forward_passes_compute_every_new_token_once(ablation: CommandRun) -> None:
    turns, forwards = ablation.table("turns.parquet"), ablation.table("forwards.parquet")
    computed, served = (table.groupby("policy").sum(numeric_only=True) for table in (forwards, turns))
    assert computed["new_tokens"].to_dict() == served["new_tokens"].to_dict()
    assert computed["requests"].to_dict() == served["chunks"].to_dict()
    assert (forwards["begin_at_ns"] <= forwards["end_at_ns"]).all()
    assert set(forwards["host"]) == {"p0"}


def test_split_reads_one_turn_through_both_hosts(tmp_path: Path) -> None:
    experiment = write_experiment(
        tmp_path, scale=SCALE, measurement={"policies": ["prefill_only", "split"], "contender": "split"}
    )
    with CommandRun(experiment, tmp_path) as run:
        finish_exactly(run)
    turns = run.table("turns.parquet")
    split = turns[turns["path"] == "split"]
    assert len(split) > 0
    assert set(split["policy"]) == {"split"}
    assert (split[["prefill_read_bytes", "decode_read_bytes"]] > 0).all(axis=None)
    reads = run.table("transfers.parquet").query("kind == 'storage_read'")
    hosts = reads[reads["turn_id"].isin(split["turn_id"])].groupby("turn_id")["host"].agg(set)
    assert (hosts == {"p0", "d0"}).all()
    assert len(hosts) == len(split)
