"""Whole runs whose engines compute, on the CPU of this machine, and a calibration that predicts them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_driver import NOTHING, CommandRun, finish_exactly, write_experiment

from harness.cluster import probe
from harness.experiment import load_profile

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="torch is not installed here (tox -e torch installs it)",
    ),
]
# KV of 164 bytes a token and layer: what the hardware below moves in about the time that the toy computes.
TOY: dict[str, Any] = {
    "cluster": {
        "replace": {
            "engines_per_host": 2,
            "storage_nic": 1.6,
            "compute_nic": 1.6,
            "prefill_buffer": 0.5,
            "decode_buffer": 0.5,
        }
    },
    "scale": {"bytes_divisor": 8, "time_dilation": 1},
}


def experiment(directory: Path, compute: dict[str, Any], **sections: dict[str, Any]) -> Path:
    return write_experiment(directory, model="toy-latent", compute=compute, **{**TOY, **sections})


def test_every_byte_goes_through_the_device_and_the_report_says_what_computed(tmp_path: Path) -> None:
    file = experiment(tmp_path, {"kind": "torch", "device": "cpu"})
    with CommandRun(file, tmp_path) as run:
        finish_exactly(run)
    turns = run.table("turns.parquet")
    assert (turns["compute_ns"] > 0).all()
    assert (turns["verified_blocks"] > 0).all()
    labels = run.metadata["emulation"]["labels"]
    assert "what is computed, the CPU computes: times are no GPU's" in labels
    assert not any("not executed" in label for label in labels)


def test_every_byte_goes_to_the_device_by_the_transport(tmp_path: Path) -> None:
    file = experiment(tmp_path, {"kind": "torch", "device": "cpu", "copy": "nic"})
    with CommandRun(file, tmp_path) as run:
        finish_exactly(run)
    assert (run.table("turns.parquet")["verified_blocks"] > 0).all()
    way = "KV goes between host memory and HBM by TCP to the host itself, through no NIC"
    assert way in run.metadata["emulation"]["labels"]


def test_without_layerwise_prefill_prompts_lie_in_device_memory_whole(tmp_path: Path) -> None:
    file = experiment(
        tmp_path,
        {"kind": "torch", "device": "cpu"},
        variants={"basic": {"policy": "prefill_only", "layerwise": False}},
        measurement={"policies": ["basic", "dual_path"]},
    )
    with CommandRun(file, tmp_path) as run:
        finish_exactly(run)


def test_hosts_without_a_gpu_say_so_before_anything_runs(tmp_path: Path) -> None:
    with CommandRun(experiment(tmp_path, {"kind": "torch"}), tmp_path) as run:
        status, _, said = run.end()
        assert status == 3
        assert said.count("ComputeError: compute: torch") == 1
        assert f"; its log: {run.directory / 'logs'}/" in said
        assert "what was measured" not in said
        assert run.leftovers() == NOTHING


def test_a_calibration_is_a_profile_that_a_run_predicts_by(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    command = [
        *("calibrate", "compute", "toy-latent", "--device", "cpu", "--engines", "2,4", "--seconds", "0.02"),
        *("--rounds", "1", "--longest-context", "4096", "--most-tokens", "512", "--out", str(profile)),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert "TFLOP/s of a large BF16 matrix product" in done.stdout
    kernels, of_four = load_profile(str(profile)).kernels["toy-latent"]
    assert (kernels.expert_engines, of_four.expert_engines) == (2, 4)
    assert kernels.command == "dualpath " + " ".join(command)
    assert kernels.held_out.points == 24
    file = experiment(tmp_path, {"kind": "timed"}, cluster={**TOY["cluster"], "profile": str(profile)})
    with CommandRun(file, tmp_path) as run:
        finish_exactly(run)
    [label] = [label for label in run.metadata["emulation"]["labels"] if "not executed" in label]
    assert kernels.device in label
    assert kernels.measured_at in label
