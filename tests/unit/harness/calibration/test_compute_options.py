"""What ``calibrate compute`` is asked for: how many engines, and where the profile goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.calibration.compute_options import check_new_profile, expert_engines
from harness.experiment import ExperimentError, load_profile
from harness.inventory import Inventory, InventoryHost, SshLauncher
from workloads.models import find_model

HOPPER = load_profile("hopper-400g")
MIXTURE, DENSE = find_model("dualpath-27b"), find_model("qwen2.5-32b")


def rack(*hosts: InventoryHost) -> Inventory:
    return Inventory(name="r", launcher=SshLauncher(), hosts=hosts)


P0, D0, D1 = InventoryHost("p0", "prefill"), InventoryHost("d0", "decode"), InventoryHost("d1", "decode")
P4, D4 = InventoryHost("p0", "prefill", engines=4), InventoryHost("d0", "decode", engines=4)


@pytest.mark.parametrize(
    ("option", "hosts", "expected"),
    [
        ("8", [], (8,)),
        ("16, 8,16", [], (8, 16)),
        ("32", [P4, D4], (32,)),
        (None, [], (8,)),
        (None, [P0, D0, D1], (8, 16)),
        (None, [P4, D4], (4,)),
        (None, [P4, D4, InventoryHost("s0", "storage")], (4,)),
        (None, [D4], (4,)),
    ],
)
def test_engines_that_share_the_experts(
    option: str | None, hosts: Sequence[InventoryHost], expected: tuple[int, ...]
) -> None:
    assert expert_engines(option, MIXTURE, HOPPER, rack(*hosts) if hosts else None) == expected


@pytest.mark.parametrize("option", [None, "1"])
def test_nobody_shares_what_a_model_has_not(option: str | None) -> None:
    assert expert_engines(option, DENSE, HOPPER, rack(P0, D0)) == (1,)
    with pytest.raises(ExperimentError, match=r"--engines: found 8, but qwen2.5-32b has no experts to share"):
        expert_engines("8", DENSE, HOPPER, None)


@pytest.mark.parametrize("option", ["", "0", "8,", "8;16", "-1", "eight"])
def test_what_is_no_number_of_engines_is_said(option: str) -> None:
    with pytest.raises(
        ExperimentError, match=f"--engines: found '{option}', expected how many engines share"
    ):
        expert_engines(option, MIXTURE, HOPPER, None)


def test_a_new_file_or_the_one_that_is_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_new_profile(tmp_path / "new.toml", "hopper-400g")
    there = tmp_path / "there.toml"
    there.touch()
    check_new_profile(there, str(there))
    monkeypatch.chdir(tmp_path)
    check_new_profile(Path("there.toml"), str(there))
    with pytest.raises(ExperimentError) as error:
        check_new_profile(there, "hopper-400g")
    assert str(error.value) == (
        f"--out: found {there}, which exists; expected a file that can be written: name another, or add to "
        f"it with --profile {there}"
    )


def test_places_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "nowhere" / "p.toml"
    with pytest.raises(ExperimentError) as error:
        check_new_profile(nowhere, "hopper-400g")
    assert str(error.value) == (
        f"--out: found {nowhere}, whose folder is not there; expected a file that can be written: make the "
        "folder or name another"
    )
    with pytest.raises(ExperimentError, match="which is no regular file"):
        check_new_profile(tmp_path, "hopper-400g")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ExperimentError, match="in whose folder you may not write"):
        check_new_profile(tmp_path / "p.toml", "hopper-400g")
