"""Engines that compute on a rack's hosts, with the hosts' own torch, which no run brings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from racks.sshd_lab import OBSTACLE, SshdLab, sshd_lab
from run_driver import CommandRun, finish_exactly
from test_run_on_torch import experiment

from harness.cluster import probe
from harness.experiment import load_profile

TORCH = importlib.util.find_spec("torch")
NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
    pytest.mark.skipif(TORCH is None, reason="torch is not installed here (tox -e torch installs it)"),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A host's Python with torch: an environment that is shown where this one's is."""
    environment = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    (packages,) = environment.glob("lib/python*/site-packages")
    assert TORCH is not None
    assert TORCH.origin is not None
    (packages / "torch.pth").write_text(f"{Path(TORCH.origin).parents[1]}\n")
    return str(environment / "bin" / "python")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, python: str) -> Iterator[SshdLab]:
    with sshd_lab(tmp_path_factory.mktemp("rack")) as raised:
        raised.python = python
        raised.write_inventory(raised.inventory)
        yield raised


def test_a_run_computes_on_the_hosts(lab: SshdLab, tmp_path: Path) -> None:
    file = experiment(tmp_path, {"kind": "torch", "device": "cpu"}, measurement={"ceiling_s": 0.3})
    with CommandRun(file, tmp_path, "--inventory", str(lab.inventory), prefix=lab.prefix) as run:
        finish_exactly(run)
    assert (run.table("turns.parquet")["compute_ns"] > 0).all()


def test_a_host_without_a_gpu_is_found_before_anything_runs(lab: SshdLab, tmp_path: Path) -> None:
    file = experiment(tmp_path, {"kind": "torch"})
    with CommandRun(file, tmp_path, "--inventory", str(lab.inventory), prefix=lab.prefix) as run:
        status, _, said = run.end()
    assert status == 3
    assert "torch: 2." in said
    assert "there is no GPU" in said


def calibrate_on(lab: SshdLab, profile: Path) -> subprocess.CompletedProcess[str]:
    argv = [
        *(*lab.prefix, sys.executable, "-m", "harness.cli", "calibrate", "compute", "toy-grouped"),
        *("--inventory", str(lab.inventory), "--host", "d0", "--device", "cpu", "--seconds", "0.01"),
        *("--rounds", "1", "--longest-context", "4096", "--most-tokens", "512", "--out", str(profile)),
    ]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)


HOLDS = """
import asyncio
from hosts.claim import Claim, claimed

async def hold():
    async with claimed(Claim("0123abcd", "alice", "2026-01-02T03:04:05+00:00", "10.0.0.1")):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


def test_kernels_are_not_measured_on_a_host_that_a_run_holds(lab: SshdLab, tmp_path: Path) -> None:
    argv = ["nsenter", f"--net={lab.namespace('d0')}", "--", sys.executable, "-c", HOLDS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            done = calibrate_on(lab, tmp_path / "host.toml")
        finally:
            holder.kill()
    assert done.returncode == 3
    assert "host d0: in use by run 0123abcd of alice on 10.0.0.1, since 2026-01-02T03:04:05" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_kernels_are_measured_on_a_host(lab: SshdLab, tmp_path: Path) -> None:
    profile = tmp_path / "host.toml"
    done = calibrate_on(lab, profile)
    assert done.returncode == 0, done.stderr
    assert "points on d0" in done.stderr
    [kernels] = load_profile(str(profile)).kernels["toy-grouped"]
    assert kernels.gemm_tflop_per_s > 0
