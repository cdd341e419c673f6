"""A whole small experiment over RDMA: one prefill and one decode host, both policies, every Layer Block moved
by verbs between Soft-RoCE devices of the emulated cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from run_driver import NOTHING, CommandRun, finish_exactly, interfaces, write_experiment

from harness.cluster import ClusterError, probe
from harness.cluster.soft_roce import require_soft_roce

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DEVICES = Path("/sys/class/infiniband")
RUN_TIMEOUT_S = 840.0
LARGEST_PAYLOAD_BYTES = 4096
"""Of one packet, at RoCE's largest path MTU."""


class Finished(NamedTuple):
    """A run that has ended, and packets received by RDMA device while it was on."""

    run: CommandRun
    packets: dict[str, int]


def received_packets() -> dict[str, int]:
    """By device; those that go away meanwhile are left out."""
    found = {}
    for device in DEVICES.glob("rx*[0-9]"):
        try:
            found[device.name] = int((device / "ports/1/hw_counters/rcvd_pkts").read_text())
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    if obstacle := probe().unavailable.get("network_namespaces"):
        pytest.skip(f"no network namespaces: {obstacle}")
    try:
        require_soft_roce()
    except ClusterError as error:
        pytest.skip(f"no Soft-RoCE, tox -e rdma has it: {error}")
    workplace = tmp_path_factory.mktemp("verbs")
    # Slow enough for a machine that is itself emulated: what is tested is that the bytes go by RDMA.
    experiment = write_experiment(
        workplace,
        transport={"kind": "verbs"},
        replay={"agents": 2, "turns_per_agent": 1},
        scale={"time_dilation": 256},
        measurement={"repetitions": 1, "ceiling_s": 8.0, "deadline_s": RUN_TIMEOUT_S},
    )
    before, packets = interfaces(), {}
    with CommandRun(experiment, workplace, "--mode", "network_namespaces") as run:
        while run.process.poll() is None:
            packets.update(received_packets())
            try:
                run.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert run.process.returncode in (0, 1), run.end()
        finish_exactly(run)
    assert interfaces() == before
    assert received_packets() == {}
    return Finished(run, packets)


def test_both_policies_complete_and_every_byte_is_accounted_for(finished: Finished) -> None:
    metadata = finished.run.metadata
    assert [repetition["policy"] for repetition in metadata["repetitions"]] == ["prefill_only", "dual_path"]
    assert metadata["emulation"]["transport"] == "verbs"
    assert finished.run.leftovers() == NOTHING


def test_layer_blocks_went_from_device_to_device(finished: Finished) -> None:
    moved_bytes = sum(repetition["transferred_bytes"] for repetition in finished.run.metadata["repetitions"])
    assert {device[-2:] for device in finished.packets} == {"p0", "d0"}
    assert sum(finished.packets.values()) * LARGEST_PAYLOAD_BYTES >= moved_bytes > 0


def test_compute_nics_count_what_went_by_rdma(finished: Finished) -> None:
    nics = finished.run.table("telemetry/nics.parquet")
    compute = nics[nics["network"] == "compute"]
    assert set(compute["rdma_kind"]) == {"software"}
    for repetition in finished.run.metadata["repetitions"]:
        of = compute[compute["repetition"] == repetition["repetition"]].groupby("host")["rx_bytes"]
        assert (of.max() - of.min()).sum() >= repetition["transferred_bytes"] > 0
