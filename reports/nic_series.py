"""What a NIC carried, and how fast, from cumulative counters.

A NIC's bytes are those of its interface and those of its RDMA port, by ``rdma_kind``: a RoCE port's go past
the kernel, so both are added; an InfiniBand port counts all that its interface does, and more; what Soft-RoCE
sends is in the interface's counter already.

Counters are sampled at irregular instants and may restart at zero (an interface was made anew). Between two
samples a counter is taken to grow linearly, so bucket sums conserve bytes whatever the sampling interval.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def growth(counter: IntArray | FloatArray) -> FloatArray:
    """Bytes since the first sample, per sample; after a fall (a restart) all that a counter shows is new."""
    if counter.size == 0:
        return np.zeros(0)
    steps = np.diff(counter)
    steps = np.where(steps < 0, counter[1:], steps)
    return np.concatenate(([0.0], np.cumsum(steps, dtype=np.float64)))


def carried(nic: pd.DataFrame, way: Literal["rx", "tx"]) -> FloatArray:
    """Bytes received or sent since the first sample, per sample of one NIC, in order."""
    interface = growth(nic[f"{way}_bytes"].to_numpy(dtype=np.int64))
    port = growth(nic[f"rdma_{way}_bytes"].to_numpy(dtype=np.int64))
    kinds = set(nic["rdma_kind"])
    if "infiniband" in kinds:
        return port
    return interface + port if "roce" in kinds else interface


def throughput(
    at_ns: IntArray, counter: IntArray | FloatArray, end_at_ns: float, bucket_ns: int = 100_000_000
) -> tuple[FloatArray, FloatArray]:
    """Middles of buckets (s) and their rates (Gbit/s) up to ``end_at_ns``; NaN where not sampled."""
    edges = np.arange(0, max(end_at_ns, 0) + bucket_ns, bucket_ns, dtype=np.float64)
    middles = (edges[:-1] + bucket_ns / 2) / 1e9
    if at_ns.size < 2:
        return middles, np.full(middles.size, np.nan)
    moved = np.diff(np.interp(edges, at_ns, growth(counter)))
    seen = np.diff(np.clip(edges, at_ns[0], at_ns[-1]))
    rates = np.full(middles.size, np.nan)
    # A bucket of which less than half was sampled would show noise as rate.
    held = seen >= bucket_ns / 2
    rates[held] = moved[held] * 8 / seen[held]
    return middles, rates
