"""From stored rows to the metrics of one policy. What each means is said in :mod:`reports.definitions`.

Only complete repetitions count. Times are emulated seconds and rates emulated; a ``real`` in a name marks
the same figure carried back by the scale model to the hardware that the profile describes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.busy_window import BusyWindow, busy_window, bytes_within, storage_reads
from reports.counter_check import CounterCheck, check_counters, inapplicable
from reports.statistics import coefficient_of_variation, percentiles
from reports.stored_run import ORACLE, Host, Repetition, StoredRun, of_complete, of_repetition

BREAKDOWN = ("schedule", "allocation", "read", "engine_wait", "compute", "transfer", "control")
"""The parts of TTFT, in the order in which a turn meets them; control is what the others leave."""


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


class PolicyMetrics(msgspec.Struct, frozen=True):
    """What one policy did; lists have an entry a complete repetition."""

    jct_s: list[float]
    jct_real_s: list[float]
    jct_cv: float | None
    turns_per_s: list[float]
    turns_per_real_s: list[float]
    bytes_read: int
    bytes_expected: int
    bytes_written: int
    bytes_transferred: int
    verified_blocks: int
    mismatched_blocks: int
    ttft_s: dict[str, float | None]
    ttft_real_s: dict[str, float | None]
    ttft_breakdown_s: dict[str, float]
    session_completion_s: dict[str, float | None]
    prefill_engine_busy: float | None
    busy_window_share: float | None
    storage_nic: dict[str, SnicMetrics]


def policy_metrics(run: StoredRun, policy: str) -> PolicyMetrics:
    """All metrics of one policy; empty or None where no repetition of it is complete."""
    repetitions = run.complete(policy)
    turns = of_complete(run, run.turns, policy)
    dilation = run.metadata.scale.time_dilation
    jct_s = [r.jct_s for r in repetitions if r.jct_s]
    turns_per_s = [r.turns / r.jct_s for r in repetitions if r.jct_s]
    ttft = _distribution(
        (turns["first_token_at_ns"] - turns["arrived_at_ns"]).to_numpy(dtype=np.float64) / 1e9
    )
    windows = {r.repetition: _window(run, r) for r in repetitions}
    return PolicyMetrics(
        jct_s=jct_s,
        jct_real_s=[value / dilation for value in jct_s],
        jct_cv=coefficient_of_variation(jct_s),
        turns_per_s=turns_per_s,
        turns_per_real_s=[value * dilation for value in turns_per_s],
        bytes_read=sum(r.read_bytes for r in repetitions),
        bytes_expected=expected_read_bytes(run, policy) * len(repetitions),
        bytes_written=sum(r.written_bytes for r in repetitions),
        bytes_transferred=sum(r.transferred_bytes for r in repetitions),
        verified_blocks=sum(r.verified_blocks for r in repetitions),
        mismatched_blocks=sum(r.mismatched_blocks for r in repetitions),
        ttft_s=ttft,
        ttft_real_s={name: None if value is None else value / dilation for name, value in ttft.items()},
        ttft_breakdown_s=ttft_breakdown(turns),
        session_completion_s=_session_completion(turns),
        prefill_engine_busy=_engine_busy(run, turns, sum(jct_s)),
        busy_window_share=_window_share(windows, sum(jct_s)),
        storage_nic=_storage_nics(run, repetitions, windows),
    )


def expected_read_bytes(run: StoredRun, policy: str) -> int:
    """Bytes that one repetition has to read: the trace's hit bytes, none for the oracle."""
    return 0 if policy == ORACLE else run.metadata.expected.read_bytes_per_repetition


def ttft_breakdown(turns: pd.DataFrame) -> dict[str, float]:
    """Mean seconds of each part of TTFT, keys as in ``BREAKDOWN``; they add up to mean TTFT."""
    if turns.empty:
        return {}
    schedule_ns = turns["dispatched_at_ns"] - turns["arrived_at_ns"]
    parts_ns = {
        "schedule": schedule_ns,
        "allocation": turns["allocate_ns"],
        "read": turns["read_ns"],
        "engine_wait": turns["engine_wait_ns"],
        "compute": turns["compute_ns"],
        "transfer": turns["transfer_ns"],
    }
    means_s = {name: float(part.mean()) / 1e9 for name, part in parts_ns.items()}
    ttft_s = float((turns["first_token_at_ns"] - turns["arrived_at_ns"]).mean()) / 1e9
    return means_s | {"control": ttft_s - sum(means_s.values())}


def _distribution(samples: npt.NDArray[np.float64]) -> dict[str, float | None]:
    mean = float(samples.mean()) if samples.size else None
    return percentiles(samples.tolist()) | {"mean": mean}


def _session_completion(turns: pd.DataFrame) -> dict[str, float | None]:
    sessions = turns.groupby(["repetition", "session_id"])
    completion_ns = sessions["done_at_ns"].max() - sessions["arrived_at_ns"].min()
    return _distribution(completion_ns.to_numpy(dtype=np.float64) / 1e9)


def _engine_busy(run: StoredRun, turns: pd.DataFrame, total_s: float) -> float | None:
    engines = sum(host.engines for host in run.metadata.hosts if host.role == "prefill")
    if not engines or not total_s:
        return None
    return float(turns["compute_ns"].sum()) / 1e9 / (engines * total_s)


def _window(run: StoredRun, repetition: Repetition) -> BusyWindow | None:
    return busy_window(
        of_repetition(run.transfers, repetition.repetition, repetition.policy),
        of_repetition(run.turns, repetition.repetition, repetition.policy),
    )


def _window_share(windows: Mapping[int, BusyWindow | None], total_s: float) -> float | None:
    window_s = sum(window.duration_s for window in windows.values() if window)
    return window_s / total_s if window_s and total_s else None


def _storage_nics(
    run: StoredRun, repetitions: list[Repetition], windows: Mapping[int, BusyWindow | None]
) -> dict[str, SnicMetrics]:
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
