"""Storage NIC's counters against accounted bytes: did what was claimed cross it, and only that?

The counter is the interface's and, where RDMA bypasses it, the RDMA port's too
(:func:`reports.nic_series.carried`). For one repetition and host, over the interval of its counter samples::

    payload   = bytes of its storage reads in the interval
    wire_low  = payload                     (segmentation offload: one header per 64 KiB)
    wire_high = payload x 1514/1448         (Ethernet, IPv4, TCP with timestamps; MTU 1500)
                + 512 x storage operations  (HTTP response headers and handshakes)
                + 66 x written bytes / 2896 (delayed acknowledgements of our writes)
    deviation = how far the counter lies outside [wire_low, wire_high]
                / max(payload, 10 % of the busiest host's payload)
"""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd

from reports.busy_window import BUSY_SHARE, bytes_within
from reports.metadata import Repetition
from reports.nic_series import carried
from reports.stored_run import StoredRun, of_repetition

FRAME_BYTES = 1514
SEGMENT_BYTES = 1448
"""TCP payload of a full frame: 1500 - 20 (IPv4) - 20 (TCP) - 12 (timestamps, RFC 7323)."""

HEADER_BYTES = FRAME_BYTES - SEGMENT_BYTES
HTTP_BYTES = 512

PAYLOAD_SHARE = SEGMENT_BYTES / FRAME_BYTES
"""Share of a link's rate that is left for payload."""


class CounterCheck(msgspec.Struct, frozen=True):
    """One host's receive counter in one repetition, bytes."""

    repetition: int
    policy: str
    host: str
    payload_bytes: float
    counter_bytes: float
    wire_high_bytes: float
    deviation: float


def inapplicable(run: StoredRun) -> str | None:
    """Why the counters of this run say nothing about its storage bytes, or None where they do."""
    emulation = run.metadata.emulation
    if emulation.mode == "loopback":
        return "all hosts share the loopback interface: interface counters and link rates are not checked"
    if emulation.storage != "http":
        return f"storage '{emulation.storage}' need not cross an IP interface: counters are not checked"
    return None


def check_counters(run: StoredRun, repetition: Repetition) -> list[CounterCheck]:
    """Compare every serving host's storage NIC; hosts without two counter samples are left out."""
    transfers = of_repetition(run.transfers, repetition.repetition, repetition.policy)
    samples = of_repetition(run.nic_samples, repetition.repetition, repetition.policy)
    reads = transfers[transfers["kind"] == "storage_read"]
    busiest_bytes = float(reads.groupby("host")["bytes"].sum().max()) if len(reads) else 0.0
    checks = []
    for host in run.serving_hosts:
        nic = samples[(samples["host"] == host.name) & (samples["nic"] == host.storage_nic)].sort_values(
            "at_ns"
        )
        if len(nic) < 2:
            continue
        checks.append(
            _check(
                repetition,
                host.name,
                nic,
                transfers[transfers["host"] == host.name],
                busiest_bytes * BUSY_SHARE,
            )
        )
    return checks


def _check(
    repetition: Repetition, host: str, nic: pd.DataFrame, transfers: pd.DataFrame, floor_bytes: float
) -> CounterCheck:
    at_ns = nic["at_ns"].to_numpy(dtype=np.int64)
    counter_bytes = float(carried(nic, "rx")[-1])
    stored = transfers[transfers["network"] == "storage"]
    is_read = stored["kind"] == "storage_read"
    payload_bytes = bytes_within(stored[is_read], at_ns[0], at_ns[-1])
    written_bytes = bytes_within(stored[~is_read], at_ns[0], at_ns[-1])
    wire_high_bytes = (
        payload_bytes * FRAME_BYTES / SEGMENT_BYTES
        + HTTP_BYTES * float(stored["operations"].sum())
        + HEADER_BYTES * written_bytes / (2 * SEGMENT_BYTES)
    )
    outside_bytes = max(payload_bytes - counter_bytes, counter_bytes - wire_high_bytes, 0.0)
    reference_bytes = max(payload_bytes, floor_bytes)
    return CounterCheck(
        repetition=repetition.repetition,
        policy=repetition.policy,
        host=host,
        payload_bytes=payload_bytes,
        counter_bytes=counter_bytes,
        wire_high_bytes=wire_high_bytes,
        deviation=outside_bytes / reference_bytes if reference_bytes else 0.0,
    )
