"""What every host's storage NIC carried under one policy, against the ceiling measured on its path."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pandas as pd

from reports.busy_window import BusyWindow, bytes_within, storage_reads
from reports.counter_check import CounterCheck, check_counters, inapplicable
from reports.metadata import Host, Repetition
from reports.stored_run import StoredRun, of_repetition


class SnicMetrics(msgspec.Struct, frozen=True):
    """One host's storage NIC under one policy; bytes are payload, over all complete repetitions."""

    role: str
    expected_busy: bool
    bytes: int
    read_bytes: int
    written_bytes: int
    busy_utilization: float | None
    mean_utilization: float | None
    busy_gbit_per_s: float | None
    busy_real_gbit_per_s: float | None
    ceiling_gbit_per_s: float | None
    ceiling_real_gbit_per_s: float | None
    counter_over_payload: float | None


def storage_nics(
    run: StoredRun, repetitions: list[Repetition], windows: Mapping[int, BusyWindow | None]
) -> dict[str, SnicMetrics]:
    """By host, over ``repetitions``; ``windows`` are their busy windows by repetition."""
    checks = [] if inapplicable(run) else [check for r in repetitions for check in check_counters(run, r)]
    transfers = [of_repetition(run.transfers, r.repetition, r.policy) for r in repetitions]
    return {
        host.name: _storage_nic(
            run,
            host,
            [table[table["host"] == host.name] for table in transfers],
            [windows[r.repetition] for r in repetitions],
            [check for check in checks if check.host == host.name],
            sum(r.jct_s or 0.0 for r in repetitions),
        )
        for host in run.serving_hosts
    }


def _storage_nic(
    run: StoredRun,
    host: Host,
    transfers: list[pd.DataFrame],
    windows: list[BusyWindow | None],
    checks: list[CounterCheck],
    total_s: float,
) -> SnicMetrics:
    reads = [storage_reads(table) for table in transfers]
    read_bytes = sum(int(table["bytes"].sum()) for table in reads)
    written_bytes = sum(
        int(table.loc[table["kind"] == "storage_write", "bytes"].sum()) for table in transfers
    )
    window_s = sum(window.duration_s for window in windows if window)
    window_bytes = sum(
        bytes_within(table, window.begin_at_ns, window.end_at_ns)
        for table, window in zip(reads, windows, strict=True)
        if window
    )
    ceiling = run.metadata.ceilings.get(host.name)
    ceiling_bytes_per_s = ceiling.storage_read_bytes_per_s if ceiling else None
    busy_gbit_per_s = window_bytes * 8 / 1e9 / window_s if window_s else None
    ceiling_gbit_per_s = ceiling_bytes_per_s * 8 / 1e9 if ceiling_bytes_per_s else None
    payload_bytes = sum(check.payload_bytes for check in checks)
    expected_busy = any(window is not None and host.name in window.busy_hosts for window in windows)
    divisor = run.metadata.scale.rate_divisor
    return SnicMetrics(
        role=host.role,
        expected_busy=expected_busy,
        bytes=read_bytes + written_bytes,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        busy_utilization=_ratio(busy_gbit_per_s, ceiling_gbit_per_s),
        mean_utilization=_ratio(read_bytes * 8 / 1e9 / total_s if total_s else None, ceiling_gbit_per_s),
        busy_gbit_per_s=busy_gbit_per_s,
        busy_real_gbit_per_s=None if busy_gbit_per_s is None else busy_gbit_per_s * divisor,
        ceiling_gbit_per_s=ceiling_gbit_per_s,
        ceiling_real_gbit_per_s=None if ceiling_gbit_per_s is None else ceiling_gbit_per_s * divisor,
        counter_over_payload=(
            sum(check.counter_bytes for check in checks) / payload_bytes
            if expected_busy and payload_bytes
            else None
        ),
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
