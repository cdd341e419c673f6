"""Compute NICs' counters against accounted bytes: did the Layer Blocks cross the compute network?

For one repetition and host::

    payload   = bytes of Layer Blocks that it received: its own reads, and what others wrote to it
    counter   = bytes that its compute NICs received between the first and the last sample: the interfaces'
                and, where RDMA bypasses them, the RDMA ports' (:func:`reports.nic_series.carried`)
    shortfall = (payload - counter) / max(payload, 10 % of the busiest host's payload), at least 0

One-sided: model communication shares this network, so that more is no error; what it was is in the table of
traffic classes. Less means that bytes took another way than the one under test.
"""

from __future__ import annotations

import msgspec
import pandas as pd

from reports.busy_window import BUSY_SHARE
from reports.metadata import Repetition
from reports.nic_series import carried
from reports.stored_run import StoredRun, of_repetition


class ComputeCheck(msgspec.Struct, frozen=True):
    """One host's compute NICs in one repetition, bytes."""

    host: str
    payload_bytes: int
    counter_bytes: float
    shortfall: float


def compute_inapplicable(run: StoredRun) -> str | None:
    """Why the counters of this run say nothing about its Layer Blocks, or None where they do."""
    samples = run.nic_samples
    compute = samples[samples["network"] == "compute"]
    uncounted = compute[(compute["rdma_port"] != "") & (compute["rdma_kind"] == "none")]
    if len(uncounted):
        return f"{uncounted['rdma_port'].iloc[0]} counts no bytes: compute NICs are not checked"
    if run.metadata.experiment.get("compute", {}).get("copy") == "nic":
        return "compute NICs may count copies between host memory and HBM, too: they are not checked"
    return None


def check_compute(run: StoredRun, repetition: Repetition) -> list[ComputeCheck]:
    """Compare every serving host's compute NICs; hosts without two counter samples are left out."""
    transfers = of_repetition(run.transfers, repetition.repetition, repetition.policy)
    samples = of_repetition(run.nic_samples, repetition.repetition, repetition.policy)
    received = {host.name: _received_bytes(transfers, host.name) for host in run.serving_hosts}
    floor_bytes = BUSY_SHARE * max(received.values(), default=0)
    checks = []
    for host in run.serving_hosts:
        its = samples[(samples["host"] == host.name) & (samples["network"] == "compute")]
        nics = [nic.sort_values("at_ns") for _, nic in its.groupby("nic") if len(nic) > 1]
        if not nics:
            continue
        payload_bytes = received[host.name]
        counter_bytes = sum(float(carried(nic, "rx")[-1]) for nic in nics)
        reference_bytes = max(payload_bytes, floor_bytes)
        missing_bytes = max(payload_bytes - counter_bytes, 0.0)
        shortfall = missing_bytes / reference_bytes if reference_bytes else 0.0
        checks.append(ComputeCheck(host.name, payload_bytes, counter_bytes, shortfall))
    return checks


def _received_bytes(transfers: pd.DataFrame, host: str) -> int:
    read = (transfers["kind"] == "layer_read") & (transfers["host"] == host)
    written = (transfers["kind"] == "layer_write") & (transfers["peer"] == host)
    return int(transfers.loc[read | written, "bytes"].sum())
