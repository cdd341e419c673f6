from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder

from reports import Summary, analyse
from reports.stored_run import StoredRun

Spoil = Callable[[StoredRunBuilder], None]


def small(**kinds: object) -> StoredRunBuilder:
    return StoredRunBuilder(sessions=6, turns=6, **kinds)  # type: ignore[arg-type]


def judged(builder: StoredRunBuilder, directory: Path) -> Summary:
    return analyse(StoredRun.load(builder.write(directory / "run")))


def read_too_little(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][1]["read_bytes"] -= 1


def expect_more(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][2]["expected_read_bytes"] += 1


def dispatch_more(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][0]["expected_turns"] += 1


def lose_a_transfer(run: StoredRunBuilder) -> None:
    reads = [row for row in run.tables["transfers"] if row["kind"] == "storage_read"]
    run.tables["transfers"].remove(reads[0])


def corrupt_a_block(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][0]["mismatched_blocks"] = 1


def verify_nothing(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][2]["verified_blocks"] = 0


def drop_a_turn(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][0]["turns"] -= 1


def count_half(run: StoredRunBuilder) -> None:
    for row in run.tables["nics"]:
        row["rx_bytes"] //= 2


def carry_other_traffic(run: StoredRunBuilder) -> None:
    for row in run.tables["nics"]:
        if row["host"] == "d0":
            row["rx_bytes"] += row["at_ns"] // 100


def lose_samples(run: StoredRunBuilder) -> None:
    run.tables["nics"] = [row for row in run.tables["nics"] if row["host"] != "p0"]


def slow_link(run: StoredRunBuilder) -> None:
    run.metadata["ceilings"]["d0"]["storage_read_bytes_per_s"] *= 0.9


def skip_calibration(run: StoredRunBuilder) -> None:
    del run.metadata["ceilings"]["p0"]


def busy_control(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][0]["control"]["decision_s_total"] = 1.0


def busy_core(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][0]["control"]["cpu_s"] = 100.0


def slow_messages(run: StoredRunBuilder) -> None:
    for row in run.tables["turns"]:
        row["first_token_at_ns"] += 10**9


def busy_cpu(run: StoredRunBuilder) -> None:
    for row in run.tables["hosts"]:
        row["cpu_busy_fraction"] = 0.97


def break_off(run: StoredRunBuilder) -> None:
    run.metadata["repetitions"][3]["complete"] = False


def fail(run: StoredRunBuilder) -> None:
    run.metadata |= {"status": "failed", "failure": "host p0: agent ended with status 1"}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (read_too_little, "bytes read differ from the trace's hit bytes: repetition 1 (dual_path)"),
        (expect_more, "bytes read differ from the trace's hit bytes: repetition 2 (dual_path)"),
        (dispatch_more, "turns missing or repeated: repetition 0 (prefill_only): found 36, expected 37"),
        (lose_a_transfer, "by transfers.parquet"),
        (corrupt_a_block, "KV content is wrong"),
        (verify_nothing, "KV content unchecked"),
        (drop_a_turn, "turns missing or repeated"),
        (count_half, "interface counter and accounted bytes differ"),
        (
            carry_other_traffic,
            "interface counter and accounted bytes differ: repetition 0 (prefill_only), d0",
        ),
        (lose_samples, "storage NIC not sampled: repetition 0 (prefill_only), p0"),
        (slow_link, "link rate off: d0"),
        (skip_calibration, "ceiling not measured: p0"),
        (busy_control, "routing decisions took"),
        (busy_core, "the control node used"),
        (slow_messages, "control plane weighs on TTFT: prefill_only"),
        (busy_cpu, "CPU is the bottleneck"),
        (break_off, "incomplete repetition: repetition 3 (prefill_only)"),
        (
            fail,
            "run did not finish: metadata.json: status: found failed (host p0: agent ended with status 1)",
        ),
    ],
)
def test_each_gate_fails_for_its_reason(spoil: Spoil, what: str, tmp_path: Path) -> None:
    builder = small()
    spoil(builder)
    summary = judged(builder, tmp_path)
    assert not summary.valid
    hits = [problem for problem in summary.problems if what in problem]
    assert hits, summary.problems
    assert all("found" in problem and "expected" in problem for problem in hits)
    assert summary.verdict.startswith("Not a result (")


def test_a_sound_run_passes_every_gate(tmp_path: Path) -> None:
    summary = judged(small(), tmp_path)
    assert summary.valid
    assert summary.problems == summary.warnings == []
    assert summary.emulation.checks["link_rate_error"] == pytest.approx({"p0": 0.0, "d0": 0.0})


def test_counters_without_protocol_headers_agree_too(tmp_path: Path) -> None:
    """Interfaces with segmentation offload count 64 KiB segments, so hardly any headers."""
    builder = small()
    for row in builder.tables["nics"]:
        row["rx_bytes"] = int(row["rx_bytes"] * 1448 / 1514 * 1.001)
    assert judged(builder, tmp_path).valid


def test_loopback_says_what_it_cannot_check(tmp_path: Path) -> None:
    builder = small(mode="loopback")
    count_half(builder)
    summary = judged(builder, tmp_path)
    assert summary.valid, summary.problems
    assert any(
        warning.startswith("not checked: all hosts share the loopback") for warning in summary.warnings
    )
    assert summary.emulation.checks["link_rate_error"] == {}


def test_warnings_leave_a_run_valid(tmp_path: Path) -> None:
    builder = small(order=("prefill_only", "dual_path"))
    builder.metadata["repetitions"][0]["telemetry_cpu_s"]["p0"] = 0.5
    builder.tables["nics"] = [
        row for i, row in enumerate(builder.tables["nics"]) if row["at_ns"] % 200_000_000 == 0
    ]
    summary = judged(builder, tmp_path)
    assert summary.valid, summary.problems
    text = "\n".join(summary.warnings)
    assert "one repetition of prefill_only" in text
    assert "telemetry used" in text
    assert "sampled every 0.20 s" in text


def test_warnings_of_the_preparation_are_passed_on(tmp_path: Path) -> None:
    builder = small()
    builder.metadata["warnings"] = ["P/D = 9 is outside 1/7 to 7/2 (paper 4.2)"]
    summary = judged(builder, tmp_path)
    assert summary.valid
    assert summary.warnings == ["P/D = 9 is outside 1/7 to 7/2 (paper 4.2)"]


def test_the_oracle_is_known_by_its_policy_not_by_its_name(tmp_path: Path) -> None:
    upper = {"policy": "oracle", "layerwise": True, "scheduling": True}
    summary = judged(
        small(order=("prefill_only", "dual_path", "upper_bound"), variants={"upper_bound": upper}), tmp_path
    )
    assert summary.valid, summary.problems
    assert summary.policies["upper_bound"].bytes_expected == 0
    misnamed = {"policy": "dual_path", "layerwise": True, "scheduling": True}
    builder = small(order=("prefill_only", "oracle"), variants={"oracle": misnamed})
    assert judged(builder, tmp_path / "misnamed").policies["oracle"].bytes_expected == 36 * 600_000
