"""The experiments for GPUs that ship with the package: ready for a rack and for one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cluster import ModeChoice
from harness.experiment import ExperimentError, load_experiment
from harness.inventory import load_inventory
from harness.preflight import needs_of
from harness.preparation import Preparation
from harness.sites.emulated import EmulatedGround
from harness.sites.rack import RackGround

HERE = EmulatedGround(ModeChoice("loopback", {}))
RACK = Path(__file__).parents[3] / "examples" / "rack.toml"


def on_a_rack() -> Preparation:
    return RackGround(load_inventory(RACK)).prepared(load_experiment("gpu_1p1d"))


def test_the_racks_is_computed_by_every_engine_and_moved_by_rdma() -> None:
    preparation = on_a_rack()
    needs = needs_of(preparation)
    assert (needs.gpus, needs.engines, needs.transport, needs.cache) == (True, 8, "verbs", "direct")
    assert preparation.scale.rate_divisor == 1
    assert not preparation.warnings


def test_no_machine_emulates_the_racks() -> None:
    with pytest.raises(ExperimentError, match=r"compute_nic: found 400 GB/s, .*raise scale\.bytes_divisor"):
        HERE.prepared(load_experiment("gpu_1p1d"))


def test_one_machine_emulates_its_own() -> None:
    preparation = HERE.prepared(load_experiment("gpu_one_machine"))
    needs = needs_of(preparation)
    assert (needs.gpus, needs.engines, needs.transport) == (True, 1, "tcp")
    assert preparation.scale.time_dilation == 1
    assert not preparation.warnings


def test_they_leave_room_to_compute_on_a_gpu_of_80_gb() -> None:
    pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")
    from hosts.compute.torch.backend import KV_SLACK, WORKING_BYTES

    alone, shared = on_a_rack(), HERE.prepared(load_experiment("gpu_one_machine"))
    for preparation, engines in ((alone, 1), (shared, 2)):
        kv_bytes = preparation.scale.engines["decode"].kv_hbm_bytes
        # The last engine to start finds what the others keep for KV taken.
        assert engines * kv_bytes * (1 + KV_SLACK) + WORKING_BYTES <= 80e9
