"""Telemetry on this machine's loopback interface."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import pytest
from fake_nvml import FakeGpu, FakeNvml

from hosts.config import NicConfig
from hosts.counters import open_counters
from hosts.gpu_counters import GpuCounters, open_gpu_counters
from hosts.protocol import HostSamples
from hosts.storage.memory import MemoryStorage
from hosts.telemetry import Telemetry


def sampled(seconds: float, nics: tuple[NicConfig, ...] = (NicConfig("lo", "storage"),)) -> HostSamples:
    async def run() -> HostSamples:
        telemetry = Telemetry(open_counters(nics, {}), MemoryStorage(), interval_s=0.02)
        telemetry.begin(time.monotonic_ns())
        await asyncio.sleep(seconds)
        return await telemetry.end()

    return asyncio.run(run())


def test_every_list_has_one_entry_a_sample() -> None:
    samples = sampled(0.2)
    count = len(samples.at_ns)
    assert 5 <= count <= 12  # 0.2 s at 50 Hz and one at the end, on a machine that may be busy
    columns = (
        samples.cpu_busy_fraction,
        samples.agent_cpu_s,
        samples.memory_used_bytes,
        samples.sample_cost_ns,
        samples.storage_read_bytes,
        samples.storage_written_bytes,
        *(series for nic in samples.nics for series in (nic.rx_bytes, nic.tx_bytes)),
    )
    assert {len(column) for column in columns} == {count}


def test_samples_begin_at_once_ascend_and_cost_something() -> None:
    samples = sampled(0.1)
    assert 0 <= samples.at_ns[0] < 50_000_000
    assert samples.at_ns == sorted(samples.at_ns)
    assert samples.at_ns[-1] >= 100_000_000
    assert all(0 <= fraction <= 1 for fraction in samples.cpu_busy_fraction)
    assert samples.agent_cpu_s == sorted(samples.agent_cpu_s)
    assert all(cost > 0 for cost in samples.sample_cost_ns)
    [nic] = samples.nics
    assert (nic.name, nic.network) == ("lo", "storage")
    assert nic.rx_bytes == sorted(nic.rx_bytes)
    assert (nic.rdma_port, nic.rdma_kind, nic.rdma_rx_bytes, nic.classes) == ("", "none", [], [])
    assert nic.errors == {"rx_errors": 0, "tx_errors": 0}


def test_gpus_are_sampled_beside_and_their_cost_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([FakeGpu()]))

    async def run(gpus: list[GpuCounters]) -> HostSamples:
        telemetry = Telemetry((), MemoryStorage(), interval_s=0.02, gpus=gpus)
        telemetry.begin(time.monotonic_ns())
        await asyncio.sleep(0.05)
        return await telemetry.end()

    with open_gpu_counters() as gpus:
        samples = asyncio.run(run(gpus))
    [gpu] = samples.gpus
    assert len(gpu.samples) >= 2
    assert samples.cost_ns == sum(samples.sample_cost_ns) + sum(s.sample_cost_ns for s in gpu.samples)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(samples), type=HostSamples) == samples


def test_without_nics_the_host_is_sampled_all_the_same() -> None:
    samples = sampled(0.05, nics=())
    assert samples.nics == []
    assert len(samples.at_ns) >= 2


def test_each_repetition_starts_empty_and_close_may_come_twice() -> None:
    async def run() -> None:
        telemetry = Telemetry((), MemoryStorage(), interval_s=0.02)
        telemetry.begin(time.monotonic_ns())
        first = await telemetry.end()
        telemetry.begin(time.monotonic_ns())
        second = await telemetry.end()
        assert len(first.at_ns) == len(second.at_ns) == 2
        await telemetry.close()
        await telemetry.close()

    asyncio.run(run())
