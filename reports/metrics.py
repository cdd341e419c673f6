"""From stored rows to the metrics of one policy. What each means is said in :mod:`reports.definitions`.

Only complete repetitions count. Times are emulated seconds and rates emulated; a ``real`` in a name marks
the same figure carried back by the scale model to the hardware that the profile describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import msgspec

from reports.active_phase import active_end_at_ns, time_in_passes_ns
from reports.busy_window import BusyWindow, busy_window
from reports.latency import (
    Distribution,
    agent_jct_s,
    real,
    tpot_distribution,
    ttft_breakdown,
    ttft_distribution,
    ttft_parts,
    ttst_distribution,
)
from reports.metadata import Repetition
from reports.statistics import coefficient_of_variation, distribution
from reports.storage_nics import SnicMetrics, storage_nics
from reports.stored_run import StoredRun, of_repetition, of_repetitions


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
    agent_jct_mean_s: list[float]
    agent_jct_s: Distribution
    agent_jct_real_s: Distribution
    ttft_s: Distribution
    ttft_real_s: Distribution
    ttft_parts_s: dict[str, float]
    ttft_breakdown_s: dict[str, float]
    ttst_s: Distribution
    ttst_real_s: Distribution
    tpot_s: Distribution
    tpot_real_s: Distribution
    prefill_engine_busy: float | None
    busy_window_share: float | None
    storage_nic: dict[str, SnicMetrics]


def policy_metrics(run: StoredRun, policy: str, repetitions: list[Repetition]) -> PolicyMetrics:
    """All metrics of one policy over these repetitions of it; empty or None where there are none."""
    turns = of_repetitions(run.turns, policy, repetitions)
    dilation = run.metadata.scale.time_dilation
    jct_s = [r.jct_s for r in repetitions if r.jct_s]
    turns_per_s = [r.turns / r.jct_s for r in repetitions if r.jct_s]
    agents_s = agent_jct_s(turns)
    agent_s = distribution(agents_s.to_list())
    ttft_s, ttst_s, tpot_s = ttft_distribution(turns), ttst_distribution(turns), tpot_distribution(turns)
    breakdown_s = ttft_breakdown(turns)
    windows = {r.repetition: _window(run, r) for r in repetitions}
    return PolicyMetrics(
        jct_s=jct_s,
        jct_real_s=[value / dilation for value in jct_s],
        jct_cv=coefficient_of_variation(jct_s),
        turns_per_s=turns_per_s,
        turns_per_real_s=[value * dilation for value in turns_per_s],
        bytes_read=sum(r.read_bytes for r in repetitions),
        bytes_expected=sum(expected_read_bytes(run, r) for r in repetitions),
        bytes_written=sum(r.written_bytes for r in repetitions),
        bytes_transferred=sum(r.transferred_bytes for r in repetitions),
        verified_blocks=sum(r.verified_blocks for r in repetitions),
        mismatched_blocks=sum(r.mismatched_blocks for r in repetitions),
        agent_jct_mean_s=agents_s.groupby(level="repetition").mean().to_list(),
        agent_jct_s=agent_s,
        agent_jct_real_s=real(agent_s, dilation),
        ttft_s=ttft_s,
        ttft_real_s=real(ttft_s, dilation),
        ttft_parts_s=ttft_parts(breakdown_s),
        ttft_breakdown_s=breakdown_s,
        ttst_s=ttst_s,
        ttst_real_s=real(ttst_s, dilation),
        tpot_s=tpot_s,
        tpot_real_s=real(tpot_s, dilation),
        prefill_engine_busy=_engine_busy(run, repetitions),
        busy_window_share=_window_share(windows, sum(jct_s)),
        storage_nic=storage_nics(run, repetitions, windows),
    )


def expected_read_bytes(run: StoredRun, repetition: Repetition) -> int:
    """Bytes that a repetition has to read: the trace's hit bytes, none for the oracle."""
    return 0 if run.is_oracle(repetition.policy) else repetition.expected_read_bytes


def _engine_busy(run: StoredRun, repetitions: list[Repetition]) -> float | None:
    """Over the active phases together, mean over prefill hosts."""
    engines = {host.name: host.engines for host in run.metadata.hosts if host.role == "prefill"}
    busy_ns, active_ns = dict.fromkeys(engines, 0), 0
    for r in repetitions:
        end_at_ns = active_end_at_ns(of_repetition(run.turns, r.repetition, r.policy))
        in_passes_ns = time_in_passes_ns(of_repetition(run.forwards, r.repetition, r.policy), end_at_ns)
        for host in engines:
            busy_ns[host] += in_passes_ns.get(host, 0)
        active_ns += end_at_ns
    if not active_ns:
        return None
    shares = [busy_ns[host] / (count * active_ns) for host, count in engines.items() if count]
    return fmean(shares) if shares else None


def _window(run: StoredRun, repetition: Repetition) -> BusyWindow | None:
    return busy_window(
        of_repetition(run.transfers, repetition.repetition, repetition.policy),
        of_repetition(run.turns, repetition.repetition, repetition.policy),
    )


def _window_share(windows: Mapping[int, BusyWindow | None], total_s: float) -> float | None:
    window_s = sum(window.duration_s for window in windows.values() if window)
    return window_s / total_s if window_s and total_s else None
