"""Hosts, the storage server and the harness itself are killed, stopped and interrupted in mid-run."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from run_driver import (
    NOTHING,
    CommandRun,
    dualpath,
    interfaces,
    write_experiment,
    write_long_experiment,
)

from harness.cluster import ClusterError, probe
from harness.cluster.soft_roce import require_soft_roce

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]


def assert_partial_records(run: CommandRun, status: str, failure: str) -> None:
    """What was measured before the end is there, marked and reported."""
    metadata = run.metadata
    assert metadata["status"] == status
    assert failure in metadata["failure"]
    [repetition] = metadata["repetitions"]
    assert not repetition["complete"]
    assert 0 < repetition["turns"] < repetition["expected_turns"]
    assert len(run.table("turns.parquet")) == repetition["turns"]
    assert len(run.table("transfers.parquet")) > repetition["turns"]
    assert len(run.table("telemetry/nics.parquet")) > 0
    assert run.summary["valid"] is False
    assert status in (run.directory / "report.md").read_text()
    assert (run.directory / "report.html").exists()


@pytest.mark.parametrize(
    ("victim", "named"),
    [
        ("p0", "dualpath: host p0: its agent process ended (killed by signal 9)"),
        ("d0", "dualpath: host d0: its agent process ended (killed by signal 9)"),
        ("nginx", "dualpath: host storage: its storage server process ended (killed by signal 9)"),
    ],
)
def test_a_killed_process_ends_the_run_by_name(tmp_path: Path, victim: str, named: str) -> None:
    before = interfaces()
    with CommandRun(write_long_experiment(tmp_path), tmp_path) as run:
        run.until_turns_are_in_flight()
        status, stdout, errors = run.disturb_and_end(run.members()[victim])
    assert (status, stdout) == (3, "")
    assert errors.startswith(f"{named}, while replaying 1/2 prefill_only, ")
    assert "turns in flight: session " in errors
    assert errors.count("\n") == 1
    assert_partial_records(run, "failed", named.removeprefix("dualpath: "))
    assert run.leftovers() == NOTHING
    assert interfaces() == before


def test_an_agent_killed_before_the_replay(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    experiment = write_experiment(tmp_path, measurement={"ceiling_s": 5})
    with CommandRun(experiment, tmp_path, "--junit", str(junit)) as run:
        run.until_line("measuring storage ceilings")
        assert "the run has not ended" in junit.read_text()
        status, _, errors = run.disturb_and_end(run.members()["p0"])
    assert status == 3
    [error] = ElementTree.parse(junit).iter("error")
    assert errors == f"dualpath: {error.get('message')}\n"
    assert errors.startswith("dualpath: host p0: its agent process ended")
    assert "while measuring storage ceilings" in errors
    assert len(run.table("turns.parquet")) == 0
    assert run.metadata["repetitions"] == []
    assert (run.directory / "report.html").exists()
    assert run.leftovers() == NOTHING


def test_a_lost_object_ends_the_run_by_name(tmp_path: Path) -> None:
    with CommandRun(write_experiment(tmp_path), tmp_path) as run:
        run.until_line("measuring storage ceilings")  # priming is over, no repetition has begun
        for file in (run.scratch / "storage" / "prime").glob("*/prime"):
            file.unlink()
        status, stdout, errors = run.end()
    assert (status, stdout) == (3, "")
    assert re.match(
        r"dualpath: host d0: session (\S+) turn \d+ \(p0->d0\): .*'prime/\1/prime': no such object", errors
    )
    assert "while warming up" in errors
    assert errors.count("\n") == 1
    assert run.metadata["status"] == "failed"
    assert run.leftovers() == NOTHING


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_mid_repetition_saves_reports_and_cleans_up(
    tmp_path: Path, sent: signal.Signals
) -> None:
    with CommandRun(write_long_experiment(tmp_path), tmp_path) as run:
        run.until_turns_are_in_flight()
        run.process.send_signal(sent)
        status, stdout, errors = run.end(timeout_s=10)
    assert (status, stdout) == (130, "")
    assert errors == f"dualpath: interrupted; what was measured: {run.directory / 'report.html'}\n"
    assert_partial_records(run, "interrupted", "while replaying 1/2 prefill_only")
    assert run.leftovers() == NOTHING


def test_a_signal_sent_twice_at_once_is_one(tmp_path: Path) -> None:
    """As timeout(1) does: to the command, and then to its process group."""
    with CommandRun(write_long_experiment(tmp_path), tmp_path) as run:
        run.until_turns_are_in_flight()
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        run.process.send_signal(signal.SIGTERM)
        status, stdout, errors = run.end(timeout_s=10)
    assert (status, stdout) == (130, "")
    assert errors == f"dualpath: interrupted; what was measured: {run.directory / 'report.html'}\n"
    assert_partial_records(run, "interrupted", "while replaying 1/2 prefill_only")
    assert run.leftovers() == NOTHING


def test_a_later_interrupt_ends_a_run_whose_teardown_hangs(tmp_path: Path) -> None:
    with CommandRun(write_long_experiment(tmp_path), tmp_path) as run:
        run.until_turns_are_in_flight()
        members = list(run.members().values())
        for member in members:
            member.send_signal(signal.SIGSTOP)  # nobody answers: the first interrupt waits out its deadlines
        run.process.send_signal(signal.SIGINT)
        time.sleep(1.1)
        run.process.send_signal(signal.SIGINT)
        status, stdout, errors = run.end(timeout_s=10)
        psutil.wait_procs(members, timeout=10)
    assert (status, stdout) == (130, "")
    assert "interrupted again; 'dualpath cleanup' removes what is left" in errors
    assert dualpath("cleanup").returncode == 0
    assert run.leftovers() == NOTHING


@pytest.mark.parametrize(
    ("phase", "sent"),
    [
        ("raising", signal.SIGINT),
        ("raising", signal.SIGTERM),
        ("deploying", signal.SIGINT),
        ("priming", signal.SIGTERM),
        ("warming up", signal.SIGINT),
    ],
)
def test_interrupt_during_set_up(tmp_path: Path, phase: str, sent: signal.Signals) -> None:
    with CommandRun(write_experiment(tmp_path, measurement={"ceiling_s": 0.1}), tmp_path) as run:
        run.until_line(phase)
        run.process.send_signal(sent)
        status, stdout, errors = run.end(timeout_s=10)
    assert (status, stdout) == (130, "")
    assert errors.startswith("dualpath: interrupted")
    assert run.metadata["status"] == "interrupted"
    assert run.leftovers() == NOTHING


def test_terminate_a_run_that_a_script_started_in_the_background(tmp_path: Path) -> None:
    """Where the shell has SIGINT ignored."""
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    with CommandRun(
        write_experiment(tmp_path, measurement={"ceiling_s": 0.1}), tmp_path, prefix=background
    ) as run:
        run.until_line("priming")
        run.process.send_signal(signal.SIGTERM)
        status, _, errors = run.end(timeout_s=10)
    assert status == 130
    assert errors.startswith("dualpath: interrupted")
    assert run.leftovers() == NOTHING


def test_deadline_saves_what_was_measured(tmp_path: Path) -> None:
    with CommandRun(write_long_experiment(tmp_path, turns=40, deadline_s=7), tmp_path) as run:
        status, stdout, errors = run.end()
    assert (status, stdout) == (3, "")
    assert "measurement.deadline_s: the run did not end within 7 s, while replaying 1/2" in errors
    assert "turns in flight: session " in errors
    assert_partial_records(run, "failed", "measurement.deadline_s")
    assert run.leftovers() == NOTHING


def test_a_host_that_hangs_is_lost(tmp_path: Path) -> None:
    with CommandRun(write_long_experiment(tmp_path, turns=40), tmp_path) as run:
        run.until_turns_are_in_flight()
        run.members()["d0"].send_signal(signal.SIGSTOP)
        status, _, errors = run.end(timeout_s=40)
    assert status == 3
    assert errors.startswith("dualpath: host d0: no answer to Ping within 5 s, while replaying 1/2")
    assert "turns in flight: session " in errors
    assert run.leftovers() == NOTHING


def test_two_runs_one_killed_and_cleaned_up_after(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for workplace in (first, second):
        workplace.mkdir()
    with (
        CommandRun(write_long_experiment(first), first) as killed,
        CommandRun(write_long_experiment(second, turns=20), second) as survivor,
    ):
        killed.until_turns_are_in_flight()
        survivor.until_turns_are_in_flight()
        members = list(killed.members().values())
        assert len(members) == 4
        killed.process.kill()
        _, alive = psutil.wait_procs(members, timeout=10)
        assert alive == []
        assert killed.metadata["status"] == "running"
        scratch, run_id = killed.scratch, killed.metadata["run_id"]
        cleaned = dualpath("cleanup")
        assert cleaned.returncode == 0
        ours = [line for line in cleaned.stdout.splitlines() if run_id in line]
        assert [line.split()[:2] for line in ours] == [["removed", "directory"], ["removed", "record"]]
        assert str(scratch) in ours[0]
        assert killed.leftovers() == NOTHING
        assert len(survivor.members()) == 4
        assert survivor.end()[0] in (0, 1)
    assert survivor.metadata["status"] == "complete"
    assert all(repetition["complete"] for repetition in survivor.metadata["repetitions"])
    assert survivor.leftovers() == NOTHING
    assert dualpath("report", str(killed.directory)).returncode == 1


@pytest.mark.parametrize("size", ["16k", "64k", "1m"])
def test_full_disk(tmp_path: Path, size: str) -> None:
    """At different moments: from the first record to the report."""
    mount = tmp_path / "full"
    mount.mkdir()
    script = f'mount -t tmpfs -o size={size} none "{mount}" && exec "$@"'
    isolated = ["unshare", "--mount", "--", "sh", "-c", script, "sh"]
    with CommandRun(
        write_experiment(tmp_path, measurement={"ceiling_s": 0.1}),
        tmp_path,
        "--out",
        str(mount / "run"),
        prefix=isolated,
    ) as run:
        status, stdout, errors = run.end()
    assert (status, stdout) == (3, "")
    assert errors.startswith(f"dualpath: {mount}")
    assert "the disk is full; free some space or choose another --out" in errors
    assert errors.count("\n") == 1
    assert list(run.temporary.iterdir()) == []


def test_rdma_that_the_kernel_does_not_have_is_said_with_what_to_do(tmp_path: Path) -> None:
    try:
        require_soft_roce()
    except ClusterError as error:
        reason = str(error)
    else:
        pytest.skip("this kernel has Soft-RoCE")
    with CommandRun(write_experiment(tmp_path, transport={"kind": "verbs"}), tmp_path) as run:
        status, stdout, errors = run.end()
    assert (status, stdout) == (3, "")
    assert errors.startswith(f"dualpath: {reason}")
    assert "has no module rdma_rxe, expected for RDMA on an emulated cluster; fix: " in reason
    assert run.leftovers() == NOTHING
