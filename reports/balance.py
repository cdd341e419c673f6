"""How evenly storage NICs and prefill engines are loaded: max over mean, 1 is perfect (paper 7.5).

Over windows, and over forward passes, it is sum of max / sum of mean: the mean of max / mean weighted by the
work done. Unweighted, a window with a read or two, or a pass of one short prompt, would count as much as a
full one; its max / mean is near the number of hosts or engines however well the work is spread, and where
little is left to read such windows are many. The sums have a meaning of their own: what waits for the busiest
host or engine each time takes so many times as long as with even shares. Both are taken over the active phase
(:mod:`reports.active_phase`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from reports import nic_series
from reports.active_phase import active_end_at_ns
from reports.busy_window import storage_reads
from reports.counter_check import inapplicable
from reports.metadata import Host, Repetition
from reports.statistics import Estimate, mean
from reports.stored_run import StoredRun, of_repetition

WINDOW_REAL_S = 1.0
"""The paper's 'small window', which it leaves open. It has to hold many reads, so that an idle moment between
two of them is no imbalance: one read of a 33k-token context of the 660B model takes 26 ms of a 400 Gb/s NIC.
And it has to stay well below alpha, the 3 s of reading from which on a host's read queue is long (6.1)."""

START = 0.05
"""Share of the JCT that the paper calls the start of the job."""

PAPER_STORAGE_NIC = {"round robin": 1.53, "scheduled": 1.18}
PAPER_ATTENTION_START = 1.06


class Balance(msgspec.Struct, frozen=True):
    """Max over mean under one policy, the mean over repetitions; an entry is absent where it has no value.

    ``storage_nic`` by ``all`` serving hosts and, where both sides read, by role; ``attention`` over
    the ``active`` phase and the ``start`` of the job.
    """

    storage_nic: dict[str, Estimate]
    attention: dict[str, Estimate]


def balance(run: StoredRun, policy: str) -> Balance:
    """Balance of one policy over its complete repetitions."""
    repetitions = run.complete(policy)
    groups = {"all": run.serving_hosts} | {
        role: [host for host in run.serving_hosts if host.role == role]
        for role in ("prefill", "decode")
        if _both_sides_read(run, repetitions)
    }
    spans = {"active": 1.0, "start": START}
    return Balance(
        storage_nic=_means(
            {g: [_storage_nics(run, r, hosts) for r in repetitions] for g, hosts in groups.items()}
        ),
        attention=_means({s: [_attention(run, r, share) for r in repetitions] for s, share in spans.items()}),
    )


def windowed_max_over_mean(received: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """Sum over windows of max / sum of mean; ``received[h][w]`` are bytes of host h in window w.

    None where nothing arrived.
    """
    by_host = np.stack(received)
    return float(by_host.max(axis=0).sum() / by_host.mean(axis=0).sum()) if by_host.any() else None


def attention_max_over_mean(passes: pd.DataFrame) -> float | None:
    """Sum over forward passes of the longest attention time / sum of the engines' mean.

    A row is an engine in a pass, one without work counts as 0. Passes of a single engine have no balance;
    None where there is no other, or no attention.
    """
    attention = passes.groupby(["host", "forward"])["attention_ns"].agg(["max", "mean", "size"])
    attention = attention[attention["size"] > 1]
    return float(attention["max"].sum() / attention["mean"].sum()) if attention["max"].any() else None


def _storage_nics(run: StoredRun, repetition: Repetition, hosts: list[Host]) -> float | None:
    """One repetition's active phase, in whole windows."""
    reads = storage_reads(of_repetition(run.transfers, repetition.repetition, repetition.policy))
    samples = of_repetition(run.nic_samples, repetition.repetition, repetition.policy)
    turns = of_repetition(run.turns, repetition.repetition, repetition.policy)
    if inapplicable(run) or reads.empty or not hosts:
        return None
    window_ns = WINDOW_REAL_S * run.metadata.scale.time_dilation * 1e9
    edges_at_ns = window_ns * np.arange(active_end_at_ns(turns) // window_ns + 1)
    received = []
    for host in hosts:
        nic = samples[(samples["host"] == host.name) & (samples["nic"] == host.storage_nic)]
        nic = nic.sort_values("at_ns")
        if len(nic) < 2:
            return None
        bytes_at = nic_series.carried(nic, "rx")
        received.append(np.diff(np.interp(edges_at_ns, nic["at_ns"].to_numpy(dtype=np.int64), bytes_at)))
    return windowed_max_over_mean(received)


def _attention(run: StoredRun, repetition: Repetition, share: float) -> float | None:
    """One repetition's forward passes that begin in the active phase and within ``share`` of the JCT."""
    passes = of_repetition(run.forwards, repetition.repetition, repetition.policy)
    turns = of_repetition(run.turns, repetition.repetition, repetition.policy)
    until_at_ns = min(active_end_at_ns(turns), share * (repetition.jct_s or 0.0) * 1e9)
    prefill = [host.name for host in run.serving_hosts if host.role == "prefill"]
    return attention_max_over_mean(
        passes[passes["host"].isin(prefill) & (passes["begin_at_ns"] < until_at_ns)]
    )


def _both_sides_read(run: StoredRun, repetitions: list[Repetition]) -> bool:
    roles = {host.name: host.role for host in run.serving_hosts}
    readers = {
        roles[host]
        for r in repetitions
        for host in storage_reads(of_repetition(run.transfers, r.repetition, r.policy))["host"].unique()
    }
    return len(readers) == 2


def _means(values: dict[str, list[float | None]]) -> dict[str, Estimate]:
    estimates = {name: mean([v for v in of if v is not None]) for name, of in values.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}
