"""The whole product on a tiny experiment: what a user gets, in each mode."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from run_driver import (
    CommandRun,
    assert_exact,
    dualpath,
    finish_exactly,
    interfaces,
    public_directory,
    write_experiment,
)
from test_cluster_modes import NOBODY, PYTHON, drop_privileges, environment
from test_cluster_modes import OBSTACLE as NO_USER_NAMESPACES

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
needs_namespaces = pytest.mark.skipif(
    NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"
)
pytestmark = pytest.mark.cluster

LOG_LINE = re.compile(r"[0-9-]{10}T[0-9:]{8}Z +[0-9.]+ s  [ -~]+\n")

RECORDS = [
    "experiment.toml",
    "forwards.parquet",
    "logs/d0/agent.log",
    "logs/p0/agent.log",
    "logs/storage/agent.log",
    "metadata.json",
    "report.html",
    "report.md",
    "summary.json",
    "telemetry/classes.parquet",
    "telemetry/errors.parquet",
    "telemetry/gpus.parquet",
    "telemetry/hosts.parquet",
    "telemetry/nics.parquet",
    "transfers.parquet",
    "turns.parquet",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[CommandRun, str]:
    """A run in the best mode, and its stdout."""
    workplace = tmp_path_factory.mktemp("end_to_end")
    with CommandRun(write_experiment(workplace), workplace, "--mode", "network_namespaces", "--json") as run:
        return run, finish_exactly(run)


@needs_namespaces
def test_run_directory_is_complete(finished: tuple[CommandRun, str]) -> None:
    run, _ = finished
    files = [str(path.relative_to(run.directory)) for path in run.directory.rglob("*") if path.is_file()]
    assert sorted(files) == RECORDS
    assert run.metadata["status"] == "complete"
    assert run.metadata["format_version"] == run.summary["format_version"] == 2


@needs_namespaces
def test_json_is_all_there_is_on_stdout(finished: tuple[CommandRun, str]) -> None:
    run, stdout = finished
    assert json.loads(stdout) == run.summary


@needs_namespaces
def test_summary_keeps_its_contract(finished: tuple[CommandRun, str]) -> None:
    summary = finished[0].summary
    assert {"format_version", "valid", "problems", "trace", "scale", "policies", "comparison"} < set(summary)
    assert "emulation" in summary
    assert summary["valid"] is (summary["problems"] == [])
    assert {"sha256", "sessions", "turns", "hit_rate"} <= set(summary["trace"])
    assert (summary["trace"]["sessions"], summary["trace"]["turns"]) == (4, 8)
    assert list(summary["policies"]) == ["prefill_only", "dual_path"]
    for policy in summary["policies"].values():
        assert len(policy["jct_s"]) == len(policy["turns_per_s"]) == 1
        assert policy["bytes_read"] == policy["bytes_expected"] > 0
        assert policy["ttft_s"]["p50"] > 0
        assert set(policy["storage_nic"]) == {"p0", "d0"}
        for nic in policy["storage_nic"].values():
            assert {"bytes", "busy_utilization", "ceiling_gbit_per_s"} <= set(nic)
    assert summary["comparison"]["baseline"] == "prefill_only"
    assert summary["comparison"]["contender"] == "dual_path"
    assert set(summary["comparison"]["speedup"]) == {"value", "ci_low", "ci_high"}


@needs_namespaces
def test_accounts_of_the_same_bytes_agree(finished: tuple[CommandRun, str]) -> None:
    run, _ = finished
    assert_exact(run)
    turns = run.table("turns.parquet")
    basic = turns[turns["policy"] == "prefill_only"]
    assert set(basic["path"]) == {"prefill"}
    assert (turns["first_token_at_ns"] <= turns["done_at_ns"]).all()
    assert (turns["arrived_at_ns"] <= turns["dispatched_at_ns"]).all()


@needs_namespaces
def test_kv_is_sent_in_the_low_class(finished: tuple[CommandRun, str]) -> None:
    run, _ = finished
    classes = run.table("telemetry/classes.parquet")
    assert set(classes["nic"]) == {"comp0"}
    assert set(classes["host"]) == {"p0", "d0"}
    sent_bytes = classes.groupby("traffic_class")["tx_bytes"].sum()
    moved_bytes = sum(repetition["transferred_bytes"] for repetition in run.metadata["repetitions"])
    assert 1.0 <= sent_bytes["low"] / moved_bytes < 1.15
    assert sent_bytes["high"] < 0.001 * moved_bytes
    errors = run.table("telemetry/errors.parquet")
    assert set(errors["counter"]) == {"rx_errors", "tx_errors"}
    assert not errors["count"].any()
    assert "Bytes by traffic class" in (run.directory / "report.md").read_text()


@needs_namespaces
def test_report_again_gives_the_same_analysis(finished: tuple[CommandRun, str]) -> None:
    run, stdout = finished
    again = dualpath("report", str(run.directory), "--json")
    assert again.returncode == run.process.returncode
    assert again.stderr == ""
    assert {**json.loads(again.stdout), "status": ""} == {**json.loads(stdout), "status": ""}


def test_loopback_without_privileges_or_links(tmp_path: Path) -> None:
    before = interfaces()
    junit, section = tmp_path / "junit.xml", tmp_path / "section.md"
    options = ["--mode", "loopback", "--junit", str(junit), "--summary", str(section)]
    with CommandRun(write_experiment(tmp_path), tmp_path, *options) as run:
        stdout = finish_exactly(run)
    assert all(LOG_LINE.fullmatch(line) for line in run.errors), run.errors
    cases = {case.get("name"): case for case in ElementTree.parse(junit).iter("testcase")}
    assert cases["run"].find("error") is cases["bytes_read"].find("failure") is None
    assert cases["storage_nic_bytes"].find("skipped") is not None
    assert str(run.directory / "report.html") in section.read_text().replace("\\", "")
    assert run.metadata["emulation"]["mode"] == "loopback"
    assert run.metadata["emulation"]["storage"] == "posix"
    assert str(run.directory / "report.html") in stdout
    assert interfaces() == before


@pytest.mark.skipif(NO_USER_NAMESPACES is not None, reason=f"no user namespaces: {NO_USER_NAMESPACES}")
def test_unprivileged_user_gets_the_whole_cluster() -> None:
    workplace = public_directory()
    try:
        with CommandRun(
            write_experiment(workplace),
            workplace,
            "--mode",
            "user_namespaces",
            prefix=drop_privileges(),
            python=str(PYTHON),
            environment=environment(),
        ) as run:
            finish_exactly(run)
        assert run.metadata["emulation"]["mode"] == "user_namespaces"
        if os.geteuid() == 0:
            assert (run.directory / "report.html").stat().st_uid == NOBODY
    finally:
        shutil.rmtree(workplace)


def recorded_conversation() -> Path:
    folder = os.environ.get("DUALPATH_TRACES")
    if not folder:
        pytest.skip("DUALPATH_TRACES is not set: no recorded traces here")
    file = Path(folder, "kv-cache-tester", "trace_0711.json.gz")
    if not file.exists():
        pytest.skip(f"{file} does not exist")
    return file


@needs_namespaces
def test_recorded_conversation_replays(tmp_path: Path) -> None:
    """With fast decode steps: its answers are long and are decoded in full."""
    experiment = write_experiment(
        tmp_path,
        workload={"trace": str(recorded_conversation())},
        replay={"agents": 1, "turns_per_agent": 3},
        cluster={"replace": {"decode_overhead": 0.01, "hbm_bandwidth": 1e6}},
    )
    with CommandRun(experiment, tmp_path, "--mode", "network_namespaces") as run:
        finish_exactly(run)
    assert run.metadata["trace"]["format"] == "kv-cache-tester"
    assert {repetition["turns"] for repetition in run.metadata["repetitions"]} == {3}
    replaced = run.metadata["profile"]["decode_overhead"]
    assert (replaced["value"], replaced["source"]) == (0.01, "experiment file")


@needs_namespaces
def test_corrupted_objects_make_the_run_invalid(tmp_path: Path) -> None:
    with CommandRun(write_experiment(tmp_path), tmp_path) as run:
        run.until_line("measuring storage ceilings")  # priming is over, no repetition has begun
        for file in (run.scratch / "storage" / "prime").rglob("*"):
            if file.is_file():
                file.write_bytes(bytes(len(file.read_bytes())))
        status, stdout, errors = run.end()
    assert (status, errors) == (1, "")
    assert "KV content is wrong: repetition 0 (prefill_only)" in run.summary["problems"][0]
    assert "INVALID: " in stdout
    assert all(repetition["mismatched_blocks"] > 0 for repetition in run.metadata["repetitions"])
    assert "differ from their content" in (run.directory / "logs" / "d0" / "agent.log").read_text()
