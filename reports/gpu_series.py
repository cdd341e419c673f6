"""What hosts' agents sampled of each GPU while a repetition ran.

In an emulated cluster several hosts share a machine and see the same GPUs: a GPU is known by its UUID, and
its host is then all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.clock_reasons import Masks
from reports.metadata import Repetition
from reports.nic_series import growth
from reports.stored_run import StoredRun, of_repetition


@dataclass(frozen=True, slots=True)
class Gpu:
    """Where a GPU is, its index there, and its model."""

    host: str
    index: int
    name: str

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}) of {self.host}"


def gpus_in(run: StoredRun, repetitions: Iterable[Repetition]) -> Iterator[tuple[Gpu, pd.DataFrame]]:
    """Each GPU with its samples from begin to end of the repetitions."""
    taken = [
        samples[samples["at_ns"].between(0, (repetition.jct_s or 0.0) * 1e9)]
        for repetition in repetitions
        for samples in [of_repetition(run.gpu_samples, repetition.repetition, repetition.policy)]
    ]
    if not taken:
        return
    for _, samples in pd.concat(taken).groupby("uuid", sort=False):
        hosts = ", ".join(samples["host"].unique())
        yield Gpu(hosts, int(samples["gpu"].iloc[0]), str(samples["name"].iloc[0])), samples


def reasons(samples: pd.DataFrame) -> Masks:
    """Clocks event reasons, of the samples that have them."""
    return samples["clocks_event_reasons"].dropna().to_numpy(dtype=np.int64)


def bytes_per_s(samples: pd.DataFrame, column: str) -> float | None:
    """Mean rate of a cumulative counter of one GPU, None if it has none."""
    moved_bytes = duration_ns = 0.0
    for _, series in samples.dropna(subset=[column]).groupby(["repetition", "host"], sort=False):
        moved_bytes += float(growth(series[column].to_numpy(dtype=np.int64))[-1])
        duration_ns += float(series["at_ns"].iloc[-1] - series["at_ns"].iloc[0])
    return moved_bytes / duration_ns * 1e9 if duration_ns else None
