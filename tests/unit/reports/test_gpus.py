"""What GPUs did in a run's report, and what a throttled one makes of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_run_builder import StoredRunBuilder

from reports import Summary, analyse
from reports.clock_reasons import IDLE, REASONS, SLOWING, share, shares
from reports.definitions import DEFINITIONS
from reports.gpu_table import gpu_table
from reports.html import page
from reports.markdown import document
from reports.stored_run import StoredRun

SECOND_NS = 1_000_000_000
SAMPLES = 200
NAME = "NVIDIA H100 80GB HBM3"
IDLE_GPU, POWER_CAP, HW_SLOWDOWN = 0x1, 0x4, 0x8
SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x20, 0x40, 0x80
SETTINGS = 0x2 | 0x10 | 0x100


def small() -> StoredRunBuilder:
    return StoredRunBuilder(sessions=4, turns=3, order=("prefill_only", "dual_path"))


def sample_gpu(
    run: StoredRunBuilder,
    reasons: dict[int, int] | None = None,
    repetition: int = 0,
    host: str = "p0",
    uuid: str = "GPU-a",
    **values: Any,
) -> None:
    """Samples of one GPU over a repetition; ``reasons`` says how many show a mask, the others show none."""
    stored = run.metadata["repetitions"][repetition]
    masks = [mask for mask, count in (reasons or {}).items() for _ in range(count)]
    masks += [0] * (SAMPLES - len(masks))
    for index, mask in enumerate(masks):
        at_s = stored["jct_s"] * index / SAMPLES
        sampled = {
            "at_ns": round(at_s * SECOND_NS),
            "sample_cost_ns": 90_000,
            "utilization_percent": index * 100 // SAMPLES,
            "memory_used_bytes": 60_000_000_000 + index,
            "pcie_tx_bytes": round(2e9 * at_s),
            "pcie_rx_bytes": round(30e9 * at_s),
            "sm_clock_mhz": 1485,
            "memory_clock_mhz": 2619,
            "clocks_event_reasons": mask,
            "temperature_celsius": 60 + index % 5,
            "power_mw": 650_000,
            "error": "",
        }
        place = {
            "repetition": repetition,
            "policy": stored["policy"],
            "host": host,
            "role": "prefill",
            "gpu": 0,
            "uuid": uuid,
            "name": NAME,
            "memory_bytes": 80 * 2**30,
            "max_sm_clock_mhz": 1980,
        }
        run.tables["gpus"].append(place | sampled | values)


def judged(run: StoredRunBuilder, directory: Path) -> Summary:
    return analyse(StoredRun.load(run.write(directory)))


def test_a_gpu_is_a_row_of_the_report_a_policy(tmp_path: Path) -> None:
    run = small()
    for repetition in (0, 1):
        sample_gpu(run, {IDLE_GPU: 20, 0x2: 40}, repetition)
    stored = StoredRun.load(run.write(tmp_path))
    table = gpu_table(stored, ["prefill_only", "dual_path"])
    assert [row[:3] for row in table.rows] == [
        ["prefill_only", "p0", f"0, {NAME}"],
        ["dual_path", "p0", f"0, {NAME}"],
    ]
    assert table.rows[0][3:] == [
        "50 % / 99 %",
        "60.00 GB",
        "1,485 MHz",
        "75.0 %",
        "2.00 GB/s",
        "30.00 GB/s",
        "650 W",
        "64 °C",
        "idle 10.0 %, applications clocks setting 20.0 %",
    ]
    summary = analyse(stored)
    assert summary.valid, summary.problems
    assert summary.warnings == [
        f"one repetition of {name}: its spread is unknown, no confidence interval"
        for name in ("prefill_only", "dual_path")
    ]
    assert NAME in page(stored, summary)
    assert "### GPUs" in document(stored, summary)


def test_every_figure_of_the_table_is_defined() -> None:
    names = " ".join(definition.name for definition in DEFINITIONS if definition.name.startswith("gpu."))
    for figure in ("utilization", "HBM", "clock", "PCIe", "power", "temperature", "held back"):
        assert figure in names


def test_what_a_gpu_does_not_tell_is_absent(tmp_path: Path) -> None:
    unknown = {
        "utilization_percent": None,
        "memory_used_bytes": None,
        "pcie_tx_bytes": None,
        "pcie_rx_bytes": None,
        "clocks_event_reasons": None,
        "power_mw": None,
    }
    run = small()
    sample_gpu(run, max_sm_clock_mhz=None, **unknown)
    stored = StoredRun.load(run.write(tmp_path))
    [row] = gpu_table(stored, ["prefill_only", "dual_path"]).rows
    assert row[3:] == ["– / –", "–", "1,485 MHz", "–", "–", "–", "–", "64 °C", "–"]
    assert analyse(stored).valid


def test_samples_after_the_end_do_not_count(tmp_path: Path) -> None:
    run = small()
    sample_gpu(run)
    late = run.tables["gpus"][-1] | {"at_ns": 10**12, "clocks_event_reasons": HW_THERMAL}
    run.tables["gpus"] += [late] * SAMPLES
    assert judged(run, tmp_path).valid


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (HW_SLOWDOWN, "HW slowdown"),
        (SW_THERMAL, "SW thermal slowdown"),
        (HW_THERMAL, "HW thermal slowdown"),
        (POWER_BRAKE, "HW power brake"),
    ],
)
def test_a_gpu_slowed_in_more_than_a_hundredth_of_the_samples_makes_the_run_invalid(
    mask: int, reason: str, tmp_path: Path
) -> None:
    run = small()
    sample_gpu(run, {mask | POWER_CAP: 3}, repetition=1)
    summary = judged(run, tmp_path)
    [line] = summary.problems
    assert line == (
        f"GPU was slowed down: repetition 1 (dual_path), GPU 0 ({NAME}) of p0: found {reason} in 1.5 % of "
        "the samples, expected a slowdown in at most 1 % of them; improve its cooling (thermal) or its power "
        "supply and power limit (HW slowdown, power brake): nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER "
        "shows them"
    )
    assert not summary.valid
    assert summary.verdict.startswith("Not a result (")


def test_a_moment_s_slowdown_is_a_warning(tmp_path: Path) -> None:
    run = small()
    sample_gpu(run, {HW_SLOWDOWN: 1})
    sample_gpu(run, {HW_SLOWDOWN | HW_THERMAL: 2}, repetition=1)
    summary = judged(run, tmp_path)
    assert summary.valid, summary.problems
    [line] = [line for line in summary.warnings if "GPU" in line]
    assert line.startswith(
        f"clocks of GPU 0 ({NAME}) of p0 were held back in 2 of 2 repetitions, worst in repetition 1 "
        "(dual_path): HW slowdown in 1.0 % and HW thermal slowdown in 1.0 % of the samples; improve its "
        "cooling"
    )


def test_a_power_cap_only_warns_however_long(tmp_path: Path) -> None:
    run = small()
    sample_gpu(run, {POWER_CAP: SAMPLES})
    summary = judged(run, tmp_path)
    assert summary.valid, summary.problems
    [line] = [line for line in summary.warnings if "GPU" in line]
    assert line == (
        f"clocks of GPU 0 ({NAME}) of p0 were held back in 1 of 2 repetitions, worst in repetition 0 "
        "(prefill_only): SW power cap in 100.0 % of the samples; usual under full load; "
        "nvidia-smi -q -d POWER shows the limit in force"
    )


def test_settings_and_an_idle_gpu_are_no_throttling(tmp_path: Path) -> None:
    run = small()
    sample_gpu(run, {SETTINGS: 100, IDLE_GPU: 50, IDLE_GPU | HW_SLOWDOWN | SW_THERMAL: 50})
    summary = judged(run, tmp_path)
    assert summary.valid, summary.problems
    assert not [line for line in summary.warnings if "GPU" in line]


def test_a_gpu_that_hosts_share_is_told_once(tmp_path: Path) -> None:
    """In an emulated cluster every host's agent sees the machine's GPUs."""
    run = small()
    for host in ("p0", "d0"):
        sample_gpu(run, {HW_THERMAL: 20}, host=host)
    sample_gpu(run, host="d0", uuid="GPU-b")
    stored = StoredRun.load(run.write(tmp_path))
    [line] = analyse(stored).problems
    assert f"GPU 0 ({NAME}) of p0, d0: found HW thermal slowdown in 10.0 % of the samples" in line
    rows = gpu_table(stored, ["prefill_only"]).rows
    assert [(row[1], row[7], row[8]) for row in rows] == [
        ("p0, d0", "2.00 GB/s", "30.00 GB/s"),
        ("d0", "2.00 GB/s", "30.00 GB/s"),
    ]


def test_a_gpu_that_was_lost_is_a_warning(tmp_path: Path) -> None:
    run = small()
    sample_gpu(run)
    for row in run.tables["gpus"][-5:]:
        row |= {"clocks_event_reasons": None, "sm_clock_mhz": None, "error": "GPU is lost"}
    summary = judged(run, tmp_path)
    assert summary.valid, summary.problems
    assert f"GPU 0 ({NAME}) of p0 did not answer in 5 of 200 samples: GPU is lost" in summary.warnings


def gpu_gate_skipped(run: StoredRunBuilder, directory: Path) -> str | None:
    [gate] = [judged for judged in judged(run, directory).gates if judged.gate == "gpu_clocks"]
    return gate.skipped


def test_the_gate_says_why_it_does_not_apply(tmp_path: Path) -> None:
    run = small()
    assert gpu_gate_skipped(run, tmp_path / "none") == "no GPU was sampled"
    reason = "2 by NVIDIA: no NVIDIA driver (libnvidia-ml.so.1)"
    run.metadata["hosts"][0]["facts"]["gpus_not_sampled"] = reason
    host = run.metadata["hosts"][0]["name"]
    assert gpu_gate_skipped(run, tmp_path / "no driver") == f"no GPU was sampled ({host}: {reason})"
    sample_gpu(run)
    assert gpu_gate_skipped(run, tmp_path / "sampled") is None


masks = st.lists(st.integers(0, 2**62 - 1), max_size=30).map(lambda found: np.array(found, dtype=np.int64))


@given(masks)
def test_every_bit_of_every_sample_has_a_name(found: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    busy = [mask for mask in found.tolist() if not mask & IDLE]
    bits = {1 << place for mask in busy for place in range(62) if mask >> place & 1}
    expected = {REASONS.get(bit, hex(bit)): sum(bool(mask & bit) for mask in busy) for bit in bits}
    idle = len(found) - len(busy)
    if idle:
        expected["idle"] = idle
    assert shares(found) == pytest.approx({name: count / len(found) for name, count in expected.items()})


@given(masks)
def test_a_share_of_several_reasons_lies_between_the_greatest_and_the_sum(
    found: np.ndarray[Any, np.dtype[np.int64]],
) -> None:
    each = shares(found, SLOWING).values()
    together = share(found, SLOWING)
    assert max(each, default=0.0) <= together <= sum(each) + 1e-9
    assert 0 <= together <= 1
