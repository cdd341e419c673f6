"""The table of what GPUs did."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from reports.clock_reasons import shares
from reports.gpu_series import bytes_per_s, gpus_in, reasons
from reports.stored_run import StoredRun
from reports.table import Table
from reports.units import ABSENT, number, percent, size

_COLUMNS = [
    "policy",
    "host",
    "GPU",
    "utilization, mean / max",
    "HBM used, max",
    "SM clock, mean",
    "of its maximum",
    "PCIe sent",
    "PCIe received",
    "power, mean",
    "temperature, max",
    "clocks held back by (share of samples)",
]


def gpu_table(run: StoredRun, policies: Iterable[str]) -> Table:
    """A row a policy and GPU, over the policy's complete repetitions; no row where none was sampled."""
    rows = [
        [policy, gpu.host, f"{gpu.index}, {gpu.name}", *_cells(samples)]
        for policy in policies
        for gpu, samples in gpus_in(run, run.complete(policy))
    ]
    note = "As the GPUs are here: neither times nor bytes are scaled."
    return Table("GPUs", _COLUMNS, rows, note, labels=3, remarks=1)


def _cells(samples: pd.DataFrame) -> list[str]:
    utilization, clock_mhz = samples["utilization_percent"], samples["sm_clock_mhz"]
    power_w, celsius = _mean(samples["power_mw"], 1e-3), _max(samples["temperature_celsius"])
    of_maximum = _mean(clock_mhz.astype("Float64") / samples["max_sm_clock_mhz"])
    mean_mhz = _mean(clock_mhz)
    held_back = ", ".join(f"{name} {percent(part)}" for name, part in shares(reasons(samples)).items())
    return [
        f"{percent(_mean(utilization, 0.01), 0)} / {percent(_max(utilization, 0.01), 0)}",
        size(_max(samples["memory_used_bytes"])),
        ABSENT if mean_mhz is None else f"{number(mean_mhz)} MHz",
        percent(of_maximum),
        *(_rate(bytes_per_s(samples, column)) for column in ("pcie_tx_bytes", "pcie_rx_bytes")),
        ABSENT if power_w is None else f"{number(power_w)} W",
        ABSENT if celsius is None else f"{celsius:.0f} °C",
        held_back or ("nothing" if len(reasons(samples)) else ABSENT),
    ]


def _rate(per_s: float | None) -> str:
    return ABSENT if per_s is None else f"{size(per_s)}/s"


def _mean(values: pd.Series[float], factor: float = 1.0) -> float | None:
    known = values.dropna()
    return float(known.mean()) * factor if len(known) else None


def _max(values: pd.Series[float], factor: float = 1.0) -> float | None:
    known = values.dropna()
    return float(known.max()) * factor if len(known) else None
