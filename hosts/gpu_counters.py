"""What a GPU does, and what holds its clocks back, through a repetition.

By NVML (`hosts.nvml`). PCIe bytes are cumulative counters, fields of nvmlDeviceGetFieldValues since driver
555: nvmlDeviceGetPcieThroughput waits 20 ms a call, and sees nothing of the time between two calls. Sent is
what the GPU writes, to the host or a NIC. All else is as it is at the sample.

GPUs are sampled in a thread of their own. Most calls take microseconds, but they share a lock in the driver
with whoever launches kernels and allocates memory, some take milliseconds, and a lost GPU may keep one for
seconds: the event loop, which moves KV, must not wait for them. ctypes holds no GIL meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from hosts.nvml import Gpu, Nvml, NvmlError, ask, open_nvml
from hosts.protocol import GpuSample, GpuSamples

_END_TIMEOUT_S = 2.0
_log = logging.getLogger("dualpath.gpu_counters")


class GrowingCounter:
    """Growth since the first reading of a counter that may wrap, as nvml.h says of PCIe bytes.

    One of 32 bits wraps every 4 GiB: growth is right as long as less passes between two readings, which at
    0.1 s is 43 GB/s. One of 64 bits does not live to wrap; if it falls, it was reset and has counted from 0.
    """

    def __init__(self) -> None:
        self._before: int | None = None
        self._growth = 0

    def read(self, value: int, bits: int) -> int:
        """The growth until this reading."""
        before, self._before = self._before, value
        if before is not None:
            fell = value < before
            self._growth += value if fell and bits > 32 else (value - before) % (1 << bits)
        return self._growth


class GpuCounters:
    """One GPU through a repetition: `begin`, then `sample` as often as wanted, from any one thread."""

    def __init__(self, nvml: Nvml, gpu: Gpu) -> None:
        self._nvml = nvml
        self._gpu = gpu
        library = nvml.library
        self._fields = (library.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, library.NVML_FI_DEV_PCIE_COUNT_RX_BYTES)
        self._members = {
            library.NVML_VALUE_TYPE_UNSIGNED_INT: ("uiVal", 32),
            library.NVML_VALUE_TYPE_UNSIGNED_LONG: ("ulVal", 64),
            library.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: ("ullVal", 64),
        }

    def begin(self) -> GpuSamples:
        """Empty samples."""
        gpu = self._gpu
        self._pcie = (GrowingCounter(), GrowingCounter())
        self._samples = GpuSamples(gpu.index, gpu.uuid, gpu.name, gpu.memory_bytes, gpu.max_sm_clock_mhz)
        return self._samples

    def sample(self, at_ns: int) -> None:
        """Add one sample; of a GPU that does not answer, why."""
        cpu_began_ns = time.thread_time_ns()
        try:
            values, error = self._values(), ""
        except self._nvml.library.NVMLError as failure:
            values, error = {}, str(failure)
        cost_ns = time.thread_time_ns() - cpu_began_ns
        self._samples.samples.append(GpuSample(at_ns, cost_ns, error=error, **values))

    def _values(self) -> dict[str, int | None]:
        library = self._nvml.library
        utilization = self._ask(library.nvmlDeviceGetUtilizationRates)
        memory = self._ask(library.nvmlDeviceGetMemoryInfo)
        fields = self._ask(library.nvmlDeviceGetFieldValues, self._fields)
        sent_bytes, received_bytes = map(self._grown, self._pcie, fields or (None, None))
        return {
            "utilization_percent": utilization and utilization.gpu,
            "memory_used_bytes": memory and memory.used,
            "pcie_tx_bytes": sent_bytes,
            "pcie_rx_bytes": received_bytes,
            "sm_clock_mhz": self._ask(library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask(library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_MEM),
            "clocks_event_reasons": self._ask(library.nvmlDeviceGetCurrentClocksEventReasons),
            "temperature_celsius": self._ask(library.nvmlDeviceGetTemperature, library.NVML_TEMPERATURE_GPU),
            "power_mw": self._ask(library.nvmlDeviceGetPowerUsage),
        }

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return ask(self._nvml.library, function, self._gpu.handle, *arguments)

    def _grown(self, counter: GrowingCounter, field: Any) -> int | None:
        """Since `begin`; None where the GPU or its driver has no such field."""
        if field is None or field.nvmlReturn or field.valueType not in self._members:
            return None
        member, bits = self._members[field.valueType]
        return counter.read(getattr(field.value, member), bits)


class GpuSampler:
    """Samples GPUs every ``interval_s`` between `begin` and `end`, and once at each of them."""

    def __init__(self, gpus: Sequence[GpuCounters], interval_s: float) -> None:
        self._gpus = gpus
        self._interval_s = interval_s
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def begin(self, began_at_ns: int) -> list[GpuSamples]:
        """Start sampling; times are relative to ``began_at_ns`` (monotonic). What is returned fills up."""
        if self._thread is not None and self._thread.is_alive():
            _log.error("no GPU is sampled: the driver still keeps a call of the repetition before")
            return []
        samples = [gpu.begin() for gpu in self._gpus]
        if self._gpus:
            self._ended = ended = threading.Event()
            # A daemon: a call that a lost GPU keeps must not keep the agent.
            self._thread = threading.Thread(
                target=self._run, args=(began_at_ns, ended), name="gpu-telemetry", daemon=True
            )
            self._thread.start()
        return samples

    async def end(self) -> None:
        """Stop after one more sample; safe to call twice."""
        if self._thread is not None and self._thread.is_alive():
            self._ended.set()
            await asyncio.to_thread(self._thread.join, _END_TIMEOUT_S)

    def _run(self, began_at_ns: int, ended: threading.Event) -> None:
        due, last = time.monotonic(), False
        while True:
            for gpu in self._gpus:
                gpu.sample(time.monotonic_ns() - began_at_ns)
            if last:
                return
            due = max(due + self._interval_s, time.monotonic())
            last = ended.wait(due - time.monotonic())


@contextmanager
def open_gpu_counters() -> Iterator[list[GpuCounters]]:
    """Counters of each of a host's GPUs; none where there is no NVML, for which its facts have the reason."""
    with ExitStack() as stack:
        try:
            nvml = stack.enter_context(open_nvml())
        except NvmlError as error:
            _log.info("no GPU is sampled: %s", error)
            yield []
        else:
            yield [GpuCounters(nvml, gpu) for gpu in nvml.gpus]
