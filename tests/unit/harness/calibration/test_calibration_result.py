"""A stored calibration: read back, judged by age, hardware and shared links."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness.calibration.result import (
    FORMAT_VERSION,
    Calibration,
    StorageCeiling,
    TransferCeiling,
    calibration_file,
    load,
    save,
)
from harness.experiment import ExperimentError

HARDWARE = {"p0": {"cpu": "x", "nics": "a 10000 Mbit/s"}, "d0": {"cpu": "x", "nics": "a 10000 Mbit/s"}}


def calibration(**change: Any) -> Calibration:
    return replace(
        Calibration(
            format_version=FORMAT_VERSION,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            place="rack",
            dualpath_version="1.0",
            experiment="demo",
            transport="tcp",
            fingerprints=HARDWARE,
            storage={"p0": StorageCeiling(10.0, 9.0, 11.0), "d0": StorageCeiling(10.0, 9.5)},
            alone_bytes_per_s={"p0": 100.0, "d0": 80.0},
            transfers=[TransferCeiling("p0", "d0", 79.0), TransferCeiling("d0", "p0", 40.0)],
            profile={},
        ),
        **change,
    )


def test_it_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    file = calibration_file(tmp_path / "rack.toml")
    assert file == tmp_path / "rack.calibration.json"
    assert load(file) is None
    save(calibration(), file)
    assert load(file) == calibration()
    assert [path.name for path in tmp_path.iterdir()] == ["rack.calibration.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not a calibration"),
        (b"{}", "not a calibration"),
        (b"\xff", "not a calibration"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(ExperimentError, match=f"c.json: {reason}"):
        load(file)


def test_another_version_is_refused(tmp_path: Path) -> None:
    save(calibration(format_version=FORMAT_VERSION + 1), tmp_path / "c.json")
    with pytest.raises(ExperimentError, match=f"found format_version {FORMAT_VERSION + 1}, expected"):
        load(tmp_path / "c.json")


def test_a_path_is_held_against_the_slower_of_its_ends() -> None:
    [(path, share)] = calibration().oversubscribed()
    assert (path.initiator, path.peer, share) == ("d0", "p0", 0.5)


@pytest.mark.parametrize(
    ("days", "hardware", "stale", "changed"),
    [
        (0, HARDWARE, False, []),
        (29, HARDWARE, False, []),
        (31, HARDWARE, True, []),
        (0, {**HARDWARE, "d0": {"cpu": "y", "nics": "a 10000 Mbit/s"}}, True, ["d0"]),
        (0, {"p0": HARDWARE["p0"], "d7": {"cpu": "z"}}, False, []),
    ],
)
def test_it_is_stale_by_age_or_on_other_hardware(
    days: int, hardware: dict[str, dict[str, str]], stale: bool, changed: list[str]
) -> None:
    measured_at = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    found = calibration(measured_at=measured_at).as_found(hardware)
    assert (found["stale"], found["fingerprint_changed"]) == (stale, changed)
    assert found["age_days"] == pytest.approx(days, abs=0.01)
    assert set(found["ceilings"]) == {"p0", "d0"} & set(hardware)
    assert found["ceilings"]["p0"]["storage_read_bytes_per_s"] == 9.0
