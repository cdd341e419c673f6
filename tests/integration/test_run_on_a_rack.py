"""``dualpath run`` and ``calibrate`` on a rack behind sshd, as an evaluator uses them, and two at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from racks.base import OwnInventory
from racks.sshd_lab import OBSTACLE, SPEC, SshdLab, sshd_lab
from run_driver import CommandRun, dualpath, finish_exactly, write_experiment

from harness.calibration.result import STALE_AFTER_DAYS, calibration_file, load, save
from harness.cluster import probe
from harness.inventory import load_inventory

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
]
SECONDS = 0.3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdLab]:
    with sshd_lab(tmp_path_factory.mktemp("rack")) as raised:
        yield raised


@pytest.fixture(autouse=True)
def nothing_is_left(lab: SshdLab) -> Iterator[None]:
    """On hosts, in the KV store, and in the control node's records."""
    yield
    assert [
        p.cmdline() for host in lab.hosts for p in lab.processes(host) if "hosts.agent" in p.cmdline()
    ] == []
    assert list(lab.cluster.storage_root.iterdir()) == []
    assert list(lab.control_run.iterdir()) == []


def start(lab: SshdLab, workplace: Path, **sections: Any) -> CommandRun:
    """``dualpath run`` of the few seconds' experiment, under way."""
    workplace.mkdir(exist_ok=True)
    experiment = write_experiment(workplace, measurement={"ceiling_s": SECONDS}, **sections)
    return CommandRun(experiment, workplace, "--inventory", str(lab.inventory), prefix=lab.prefix)


def command(lab: SshdLab, *arguments: str) -> str:
    """What another command prints on the control node."""
    argv = [*lab.prefix, sys.executable, "-m", "harness.cli", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_the_inventory_to_the_report(lab: SshdLab, tmp_path: Path) -> None:
    with start(lab, tmp_path) as run:
        finish_exactly(run)
    assert run.metadata["emulation"]["mode"] == "rack"
    assert [host["name"] for host in run.metadata["hosts"]] == list(lab.hosts)
    assert load_inventory(run.directory / "inventory.toml") == load_inventory(lab.inventory)
    assert "rack rack, launched by ssh" in (run.directory / "report.md").read_text()
    assert all((run.directory / "logs" / host / "agent.log").exists() for host in lab.hosts)
    assert command(lab, "cleanup", "--inventory", str(lab.inventory)) == "nothing to clean up\n"


def test_hosts_with_two_compute_nics_move_kv_through_both(lab: SshdLab, tmp_path: Path) -> None:
    """The second one is the management network's, which nothing shapes."""
    rails = {
        host.name: {"compute_nics": [{"name": "comp0"}, {"name": "mgmt0"}]}
        for host in lab.hosts.values()
        if host.role != "storage"
    }
    inventory = OwnInventory(lab, tmp_path).written(rails)
    experiment = write_experiment(
        tmp_path, measurement={"ceiling_s": SECONDS}, cluster={"replace": {"engines_per_host": 2}}
    )
    with CommandRun(experiment, tmp_path, "--inventory", str(inventory), prefix=lab.prefix) as run:
        finish_exactly(run)
    samples = run.table("telemetry/nics.parquet")
    compute = samples[samples["network"] == "compute"]
    # All that is computed is handed over, whichever host has read what it is computed over.
    for host, way in (("p0", "tx_bytes"), ("d0", "rx_bytes")):
        by_nic = compute[compute["host"] == host].groupby("nic")[way]
        carried = by_nic.max() - by_nic.min()
        assert list(carried.index) == ["comp0", "mgmt0"]
        assert carried.min() > 0.1 * carried.max()


def test_the_second_of_two_evaluators_is_told_who_was_first(lab: SshdLab, tmp_path: Path) -> None:
    with start(lab, tmp_path / "first", replay={"turns_per_agent": 16}) as first:
        first.until_line("warming up")
        with start(lab, tmp_path / "second") as second:
            status, stdout, errors = second.end()
        first.pause()
        assert (status, stdout) == (3, "")
        assert re.match(
            rf"dualpath: host \w+: lock: run {first.metadata['run_id']} of \w+ measures here since "
            r"\d{4}-\d\d-\d\dT.+, controlled from .+; fix: wait for its end, ",
            errors,
        )
        finish_exactly(first)
    assert first.metadata["attempts"][0]["ended"] == "complete"


def test_what_is_calibrated_goes_into_runs_until_it_is_no_longer_true(lab: SshdLab, tmp_path: Path) -> None:
    inventory = tmp_path / "rack.toml"
    inventory.write_bytes(lab.inventory.read_bytes())
    experiment, out = str(write_experiment(tmp_path)), str(tmp_path / "calibration")
    options = ("--inventory", str(inventory), "--seconds", str(SECONDS), "--out", out)
    said = command(lab, "calibrate", experiment, *options)
    stored = calibration_file(inventory)
    assert said.endswith(f"calibration: {stored}\n")
    measured = load(stored)
    assert measured is not None
    assert load(tmp_path / "calibration" / "calibration.json") == measured
    assert list(measured.storage) == ["p0", "d0"]
    assert {(t.initiator, t.peer) for t in measured.transfers} == {("p0", "d0"), ("d0", "p0")}

    with CommandRun(Path(experiment), tmp_path, "--inventory", str(inventory), prefix=lab.prefix) as run:
        finish_exactly(run)
    found = run.metadata["calibration"]
    assert (found["measured_at"], found["stale"]) == (measured.measured_at, False)
    assert not [w for w in run.summary["warnings"] if "calibration is stale" in w]

    # An old one, of a storage path that has got slower since.
    old = datetime.now(UTC) - timedelta(days=STALE_AFTER_DAYS + 1)
    faster = replace(measured.storage["p0"], together_bytes_per_s=10 * SPEC.storage_nic_bytes_per_s)
    storage = {**measured.storage, "p0": faster}
    save(replace(measured, measured_at=old.isoformat(timespec="seconds"), storage=storage), stored)
    again = tmp_path / "again"
    with CommandRun(Path(experiment), again, "--inventory", str(inventory), prefix=lab.prefix) as run:
        finish_exactly(run)
    assert run.metadata["calibration"]["stale"]
    warnings = run.summary["warnings"]
    assert any(re.match(r"calibration is stale: measured .+, 31 days before the run", w) for w in warnings)
    assert any(w.startswith("ceiling of p0 has drifted from the calibration's: ") for w in warnings)
    assert not any(w.startswith("ceiling of d0 has drifted") for w in warnings)


def test_an_emulated_cluster_is_calibrated_like_a_rack(tmp_path: Path) -> None:
    out = tmp_path / "calibration"
    done = dualpath(
        "calibrate", str(write_experiment(tmp_path)), "--seconds", str(SECONDS), "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"calibration: {out / 'calibration.json'}\n")
    measured = load(out / "calibration.json")
    assert measured is not None
    assert list(measured.storage) == ["p0", "d0"]
    assert measured.place == "emulated cluster, network namespaces"
    assert {(t.initiator, t.peer) for t in measured.transfers} == {("p0", "d0"), ("d0", "p0")}
