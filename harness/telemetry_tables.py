"""Telemetry of repetitions as the tables it is stored as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pandas as pd

from harness.recording import Repetition
from hosts.protocol import GpuSamples, HostSamples, NicSamples

_NULLABLE_GPU_COLUMNS = (
    "memory_bytes",
    "max_sm_clock_mhz",
    "utilization_percent",
    "memory_used_bytes",
    "pcie_tx_bytes",
    "pcie_rx_bytes",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "clocks_event_reasons",
    "temperature_celsius",
    "power_mw",
)


def nics_table(repetitions: Iterable[Repetition], roles: Mapping[str, str]) -> pd.DataFrame:
    """One row a sample and NIC: cumulative counters; 0 where no RDMA port counts bytes."""
    frames = [
        pd.DataFrame(
            {
                **_of(r, host, roles),
                **_nic(nic),
                "at_ns": report.samples.at_ns,
                "rx_bytes": nic.rx_bytes,
                "tx_bytes": nic.tx_bytes,
                "rdma_port": nic.rdma_port,
                "rdma_kind": nic.rdma_kind,
                "rdma_rx_bytes": nic.rdma_rx_bytes or 0,
                "rdma_tx_bytes": nic.rdma_tx_bytes or 0,
            }
        )
        for r in repetitions
        for host, report in r.reports.items()
        for nic in report.samples.nics
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def classes_table(repetitions: Iterable[Repetition], roles: Mapping[str, str]) -> pd.DataFrame:
    """One row a NIC and class of traffic: bytes during the repetition, null where not classed."""
    rows = [
        {
            **row,
            "traffic_class": carried.traffic_class,
            "tx_bytes": carried.tx_bytes,
            "rx_bytes": carried.rx_bytes,
        }
        for row, nic in _nics(repetitions, roles)
        for carried in nic.classes
    ]
    return pd.DataFrame(rows).astype({"rx_bytes": "Int64"}) if rows else pd.DataFrame()


def errors_table(repetitions: Iterable[Repetition], roles: Mapping[str, str]) -> pd.DataFrame:
    """One row a NIC and error counter: its growth during the repetition."""
    return pd.DataFrame(
        [
            {**row, "rdma_port": nic.rdma_port, "counter": counter, "count": count}
            for row, nic in _nics(repetitions, roles)
            for counter, count in nic.errors.items()
        ]
    )


def gpus_table(repetitions: Iterable[Repetition], roles: Mapping[str, str]) -> pd.DataFrame:
    """One row a sample and GPU; null what the GPU does not tell, and all of it if there is an error."""
    rows = [
        {**_of(r, host, roles), **_gpu(gpu), **msgspec.structs.asdict(sample)}
        for r in repetitions
        for host, report in r.reports.items()
        for gpu in report.samples.gpus
        for sample in gpu.samples
    ]
    nullable = dict.fromkeys(_NULLABLE_GPU_COLUMNS, "Int64")
    return pd.DataFrame(rows).astype(nullable) if rows else pd.DataFrame()


def hosts_table(repetitions: Iterable[Repetition], roles: Mapping[str, str]) -> pd.DataFrame:
    """One row a sample: CPU, memory, cost of sampling."""
    frames = [
        pd.DataFrame({**_of(r, host, roles), **_host_columns(report.samples)})
        for r in repetitions
        for host, report in r.reports.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _host_columns(samples: HostSamples) -> dict[str, list[int] | list[float]]:
    return {
        "at_ns": samples.at_ns,
        "cpu_busy_fraction": samples.cpu_busy_fraction,
        "agent_cpu_s": samples.agent_cpu_s,
        "memory_used_bytes": samples.memory_used_bytes,
        "storage_read_bytes": samples.storage_read_bytes,
        "storage_written_bytes": samples.storage_written_bytes,
        "disk_read_bytes": samples.disk_read_bytes,
        "disk_written_bytes": samples.disk_written_bytes,
        "sample_cost_ns": samples.sample_cost_ns,
    }


def _nics(
    repetitions: Iterable[Repetition], roles: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], NicSamples]]:
    for repetition in repetitions:
        for host, report in repetition.reports.items():
            for nic in report.samples.nics:
                yield {**_of(repetition, host, roles), **_nic(nic)}, nic


def _nic(nic: NicSamples) -> dict[str, Any]:
    return {"nic": nic.name, "network": nic.network}


def _gpu(gpu: GpuSamples) -> dict[str, Any]:
    return {
        "gpu": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "max_sm_clock_mhz": gpu.max_sm_clock_mhz,
    }


def _of(repetition: Repetition, host: str, roles: Mapping[str, str]) -> dict[str, Any]:
    return {
        "repetition": repetition.index,
        "policy": repetition.policy,
        "host": host,
        "role": roles[host],
    }
