"""Runs in several attempts, and beside a stored calibration: what the report says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_run_builder import StoredRunBuilder

from reports import StoredRun, Summary, analyse
from reports.attempts import ranges
from reports.circumstance_tables import circumstance_tables
from reports.junit import document
from reports.table import Table

FIRST, SECOND = "2026-03-01T12:00:00+00:00", "2026-03-01T13:00:00+00:00"
INTERRUPTED = "interrupted while replaying 3/4 dual_path"


def resumed(speedup: float = 1.0, hosts: list[dict[str, Any]] | None = None) -> StoredRunBuilder:
    """Interrupted after two of four repetitions; then storage NICs were ``speedup`` times as fast."""
    builder = StoredRunBuilder(sessions=6, turns=6)
    metadata = builder.metadata
    earlier = {
        host: {"storage_read_bytes_per_s": ceiling["storage_read_bytes_per_s"] / speedup}
        for host, ceiling in metadata["ceilings"].items()
    }
    metadata["attempts"] = [
        {
            "began_at": FIRST,
            "repetitions": [0, 1],
            "ended": INTERRUPTED,
            "ceilings": earlier,
            "hosts": hosts or metadata["hosts"],
        },
        {
            "began_at": SECOND,
            "repetitions": [2, 3],
            "ceilings": metadata["ceilings"],
            "hosts": metadata["hosts"],
        },
    ]
    return builder


def calibrated(**kinds: Any) -> StoredRunBuilder:
    builder = StoredRunBuilder(sessions=6, turns=6)
    known = {"measured_at": FIRST, "age_days": 3.2, "ceilings": dict(builder.metadata["ceilings"])}
    builder.metadata["calibration"] = known | kinds
    return builder


def analysed(builder: StoredRunBuilder, directory: Path) -> tuple[StoredRun, Summary]:
    run = StoredRun.load(builder.write(directory / "run"))
    return run, analyse(run)


def table(run: StoredRun, summary: Summary, title: str) -> Table:
    [found] = [table for table in circumstance_tables(run, summary) if table.title == title]
    return found


def test_a_resumed_run_says_so_everywhere(tmp_path: Path) -> None:
    run, summary = analysed(resumed(), tmp_path)
    told = (
        f"repetitions 0-1 (began {FIRST}, {INTERRUPTED})",
        f"repetitions 2-3 (began {SECOND})",
    )
    assert summary.valid
    assert summary.resumed
    assert summary.warnings == [f"resumed: {told[0]}, then {told[1]}"]
    assert [row[:4] for row in table(run, summary, "Attempts").rows] == [
        ["1", FIRST, "0-1", INTERRUPTED],
        ["2", SECOND, "2-3", "–"],
    ]
    assert f'<property name="attempts" value="{told[0]}; {told[1]}" />' in document(run.metadata, summary)


def test_a_run_in_one_go_has_nothing_to_say_of_it(tmp_path: Path) -> None:
    builder = resumed()
    del builder.metadata["attempts"][0]
    run, summary = analysed(builder, tmp_path)
    assert not summary.resumed
    assert summary.warnings == []
    assert table(run, summary, "Attempts").rows == []


@pytest.mark.parametrize(("speedup", "warned"), [(1.04, False), (0.96, False), (1.06, True), (0.9, True)])
def test_ceilings_that_differ_between_attempts(speedup: float, warned: bool, tmp_path: Path) -> None:
    _, summary = analysed(resumed(speedup), tmp_path)
    lines = [line for line in summary.warnings if line.startswith("ceiling of ")]
    assert len(lines) == 2 * warned
    assert all(f"({(speedup - 1) * 100:+.1f} %); within 5 % is usual" in line for line in lines)


def test_hosts_that_differ_between_attempts(tmp_path: Path) -> None:
    other = [host | {"facts": host["facts"] | {"kernel": "6.0.0"}} for host in resumed().metadata["hosts"]]
    other[1] |= {"engines": 2}
    _, summary = analysed(resumed(hosts=other), tmp_path)
    assert summary.warnings[1:] == [
        "kernel differs between attempts: 6.0.0, then 6.1.0 on p0, d0",
        "engines differs between attempts: 2, then 1 on d0",
        "kernel differs between attempts: 6.0.0, then – on s0",
    ]
    other[1]["name"] = "d7"
    _, summary = analysed(resumed(hosts=other), tmp_path / "replaced")
    assert summary.warnings[1] == "hosts differ between attempts: p0, d7, s0, then p0, d0, s0"


def test_an_attempt_that_measured_nothing_is_compared_with_nothing(tmp_path: Path) -> None:
    builder = resumed()
    failed = {"began_at": SECOND, "ended": "host d0: no route to host"}
    builder.metadata["attempts"].insert(1, failed)
    _, summary = analysed(builder, tmp_path)
    [line] = summary.warnings
    assert f"then none (began {SECOND}, host d0: no route to host), then " in line


def test_a_repetition_that_was_measured_again_is_the_later_attempts(tmp_path: Path) -> None:
    builder = resumed(speedup=1.1)
    failed = {"began_at": SECOND, "repetitions": [2], "ended": "host d0: lost;\nits last lines: x"}
    builder.metadata["attempts"].insert(1, failed)
    builder.metadata["attempts"][0]["repetitions"] = [0, 1, 2]
    run, summary = analysed(builder, tmp_path)
    assert [row[2] for row in table(run, summary, "Attempts").rows] == ["0-1", "none", "2-3"]
    assert f"then none (began {SECOND}, host d0: lost; its last lines: x), then " in summary.warnings[0]
    assert [line.split()[0] for line in summary.warnings] == ["resumed:", "ceiling", "ceiling"]


def test_a_calibration_that_holds_is_shown_beside_the_ceilings(tmp_path: Path) -> None:
    run, summary = analysed(calibrated(), tmp_path)
    assert summary.warnings == []
    assert ["calibration", f"measured {FIRST}, 3 days before the run"] in table(
        run, summary, "Run and emulation"
    ).rows
    hosts = table(run, summary, "Hosts")
    assert [row[-1] for row in hosts.rows] == ["95.64 Mbit/s (+0.0 %)", "95.64 Mbit/s (+0.0 %)", "–"]


def test_without_a_calibration_there_is_no_column_for_it(tmp_path: Path) -> None:
    run, summary = analysed(StoredRunBuilder(sessions=2, turns=2), tmp_path)
    assert table(run, summary, "Hosts").columns[-1] == "ceiling, emulated (measured payload)"
    assert "calibration" not in [row[0] for row in table(run, summary, "Run and emulation").rows]


def test_a_stale_calibration_is_a_warning(tmp_path: Path) -> None:
    _, summary = analysed(calibrated(age_days=41.0, stale=True, fingerprint_changed=["p0", "d0"]), tmp_path)
    assert summary.valid
    assert summary.warnings == [
        f"calibration is stale: measured {FIRST}, 41 days before the run, on other hardware than p0, d0 now "
        "has; repeat 'dualpath calibrate'"
    ]


def test_a_ceiling_that_drifted_from_the_calibration_is_a_warning(tmp_path: Path) -> None:
    builder = calibrated()
    known = builder.metadata["calibration"]["ceilings"]
    known["p0"] = {"storage_read_bytes_per_s": known["p0"]["storage_read_bytes_per_s"] * 1.1}
    known["gone"] = {"storage_read_bytes_per_s": 1.0}
    _, summary = analysed(builder, tmp_path)
    assert summary.warnings == [
        "ceiling of p0 has drifted from the calibration's: 105.2 Mbit/s, then 95.64 Mbit/s (-9.1 %); within "
        "5 % is usual"
    ]


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    spans = [span.split("-") for span in ranges(list(numbers)).split(", ") if span]
    named = [n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)]
    assert named == sorted(numbers)
    starts, ends = [int(span[0]) for span in spans], [int(span[-1]) for span in spans]
    assert all(begin > end + 1 for begin, end in zip(starts[1:], ends, strict=False))
