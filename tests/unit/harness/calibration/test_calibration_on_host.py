"""Which host of an inventory measures kernels."""

from __future__ import annotations

import pytest

from harness.calibration.on_host import host_of
from harness.experiment import ExperimentError
from harness.inventory import Inventory, InventoryHost, SshLauncher

RACK = Inventory(
    name="r",
    launcher=SshLauncher(),
    hosts=(
        InventoryHost(name="s0", role="storage"),
        InventoryHost(name="d0", role="decode"),
        InventoryHost(name="p0", role="prefill"),
        InventoryHost(name="p1", role="prefill"),
    ),
)


@pytest.mark.parametrize(("name", "expected"), [("", "p0"), ("p1", "p1"), ("d0", "d0")])
def test_the_one_that_is_named_or_the_first_that_prefills(name: str, expected: str) -> None:
    assert host_of(RACK, name).name == expected


def test_one_that_is_not_there() -> None:
    with pytest.raises(
        ExperimentError, match=r"--host: found 'p9' in inventory r, expected one of s0, d0, p0, p1"
    ):
        host_of(RACK, "p9")
