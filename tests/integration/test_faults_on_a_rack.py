"""Runs on a rack of sshds in each of which something breaks: the short version of tools/inject_faults.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from racks.fault_rack import FaultRack, fault_rack
from racks.fault_run import Draw, drawn, suffer
from racks.faults import FAULTS
from racks.sshd_lab import OBSTACLE

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
]
SEED = 5
QUICK = (
    "agent killed",
    "sshd killed",
    "control node killed",
    "storage link down",
    "storage server killed",
    "disk of the store full",
    "clock steps forward",
)
NEEDS_CC = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler for clocks that step: apt-get install gcc libc6-dev"
)


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRack]:
    with fault_rack(tmp_path_factory.mktemp("rack")) as raised:
        yield raised


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[NEEDS_CC] if name.startswith("clock") else []) for name in QUICK]
)
def test_a_fault_is_named_and_nothing_is_left(rack: FaultRack, fault: str) -> None:
    [draw] = drawn(SEED, [QUICK.index(fault)], [fault])
    outcome = suffer(rack, draw)
    assert not outcome.wrong, outcome


def test_a_seed_draws_the_same_faults_for_as_long_as_they_are_the_same() -> None:
    draws = drawn(SEED, range(400))
    assert draws == drawn(SEED, range(400))
    assert draws[37:38] == drawn(SEED, [37])
    assert draws != drawn(SEED + 1, range(400))
    assert {draw.fault for draw in draws} == set(FAULTS)
    assert isinstance(draws[0], Draw)
    for draw in draws:
        assert draw.victim in FAULTS[draw.fault].victims
        assert draw.moment in FAULTS[draw.fault].moments
