"""Telemetry of one host during a repetition: NICs, GPUs, CPU, memory, storage, and its own cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import psutil

from hosts.counters import NicCounters
from hosts.gpu_counters import GpuCounters, GpuSampler
from hosts.protocol import HostSamples
from hosts.storage import Storage


class Telemetry:
    """Samples every ``interval_s`` between `begin` and `end`, and once at each of them."""

    def __init__(
        self,
        nics: Sequence[NicCounters],
        storage: Storage,
        interval_s: float,
        gpus: Sequence[GpuCounters] = (),
    ) -> None:
        self._nics = nics
        self._gpus = GpuSampler(gpus, interval_s)
        self._storage = storage
        self._interval_s = interval_s
        self._process = psutil.Process()
        self._task: asyncio.Task[None] | None = None
        self._samples = HostSamples([], [], [], [], [], [], [], [], [], [], [])

    def begin(self, began_at_ns: int) -> None:
        """Start sampling; times are relative to ``began_at_ns`` (monotonic)."""
        interfaces = psutil.net_io_counters(pernic=True)
        nics = [nic.begin(interfaces[nic.nic.name]) for nic in self._nics]
        gpus = self._gpus.begin(began_at_ns)
        self._samples = HostSamples([], [], [], [], [], [], [], [], [], nics, gpus)
        self._began_at_ns = began_at_ns
        self._cpu_before = psutil.cpu_times()
        self._sample()
        self._task = asyncio.create_task(self._run(), name="telemetry")

    async def end(self) -> HostSamples:
        """Stop and return everything sampled."""
        await self.close()
        self._sample()
        interfaces = psutil.net_io_counters(pernic=True)
        for nic in self._nics:
            nic.end(interfaces[nic.nic.name])
        return self._samples

    async def close(self) -> None:
        """Stop sampling; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._gpus.end()

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            # From the previous due time, so that sampling cost does not stretch the interval.
            due = max(due + self._interval_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            self._sample()

    def _sample(self) -> None:
        cpu_began_ns = time.thread_time_ns()
        samples, interfaces = self._samples, psutil.net_io_counters(pernic=True)
        samples.at_ns.append(time.monotonic_ns() - self._began_at_ns)
        samples.cpu_busy_fraction.append(self._cpu_busy_fraction())
        agent = self._process.cpu_times()
        samples.agent_cpu_s.append(agent.user + agent.system)
        samples.memory_used_bytes.append(psutil.virtual_memory().used)
        samples.storage_read_bytes.append(self._storage.bytes_read)
        samples.storage_written_bytes.append(self._storage.bytes_written)
        disks = psutil.disk_io_counters()
        samples.disk_read_bytes.append(disks.read_bytes if disks else 0)
        samples.disk_written_bytes.append(disks.write_bytes if disks else 0)
        for nic in self._nics:
            nic.sample(interfaces[nic.nic.name])
        samples.sample_cost_ns.append(time.thread_time_ns() - cpu_began_ns)

    def _cpu_busy_fraction(self) -> float:
        """Of all cores together, since the previous sample."""
        before, now = self._cpu_before, psutil.cpu_times()
        total = sum(now) - sum(before)
        if total <= 0:
            return 0.0
        self._cpu_before = now
        idle = now.idle + now.iowait - before.idle - before.iowait
        return min(max(1 - idle / total, 0.0), 1.0)
