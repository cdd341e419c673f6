"""nvidia-ml-py over GPUs that follow a script: what `hosts.nvml` calls of it, in its words.

``now_s`` is the clock: a test sets it, and each GPU's ``script`` says what the GPU shows then. A value that
is an exception is raised by the function that would have returned it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 2**30


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    def __str__(self) -> str:
        return "Not Supported"


class NVMLError_FunctionNotFound(NVMLError):
    pass


class NVMLError_NoPermission(NVMLError):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    def __str__(self) -> str:
        return "GPU is lost"


@dataclass
class Shown:
    """Of one GPU at one instant. ``pcie_tx``, ``pcie_rx`` are the raw counters."""

    utilization: Any = 0
    memory_used: Any = GIB
    pcie_tx: int = 0
    pcie_rx: int = 0
    pcie_type: int = 3
    pcie_return: int = 0
    sm_clock: Any = 1980
    memory_clock: Any = 2619
    reasons: Any = 0
    temperature: Any = 40
    power: Any = 120_000


@dataclass
class FakeGpu:
    script: Callable[[float], Shown] = lambda now_s: Shown()
    name: str = "Fake H100"
    memory_total: Any = 80 * GIB
    max_sm_clock: Any = 1980
    handle_error: NVMLError | None = None


def shown(value: Any) -> Any:
    if isinstance(value, NVMLError):
        raise value
    return value


@dataclass
class FakeNvml:
    """Stands in for the module ``pynvml``; ``opened`` counts as NVML does."""

    gpus: Sequence[FakeGpu] = ()
    driver: str = "555.42.06"
    init_error: NVMLError | None = None
    now_s: float = 0.0
    opened: int = field(default=0, init=False)

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_FunctionNotFound = NVMLError_FunctionNotFound
    NVMLError_NoPermission = NVMLError_NoPermission
    NVMLError_LibraryNotFound = NVMLError_LibraryNotFound
    NVML_SUCCESS = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_VALUE_TYPE_UNSIGNED_INT = 1
    NVML_VALUE_TYPE_UNSIGNED_LONG = 2
    NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3
    NVML_FI_DEV_PCIE_COUNT_TX_BYTES = 197
    NVML_FI_DEV_PCIE_COUNT_RX_BYTES = 198

    def nvmlInit(self) -> None:
        if self.init_error:
            raise self.init_error
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        shown(self.gpus[index].handle_error)
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle:08d}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.gpus[handle].name

    def nvmlDeviceGetMaxClockInfo(self, handle: int, clock: int) -> int:
        assert clock == self.NVML_CLOCK_SM
        return int(shown(self.gpus[handle].max_sm_clock))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(
            total=shown(self.gpus[handle].memory_total), used=shown(self._now(handle).memory_used)
        )

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=shown(self._now(handle).utilization), memory=0)

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        now = self._now(handle)
        return int(shown({self.NVML_CLOCK_SM: now.sm_clock, self.NVML_CLOCK_MEM: now.memory_clock}[clock]))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return int(shown(self._now(handle).reasons))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return int(shown(self._now(handle).temperature))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return int(shown(self._now(handle).power))

    def nvmlDeviceGetFieldValues(self, handle: int, fields: Sequence[int]) -> list[SimpleNamespace]:
        now = self._now(handle)
        counters = {
            self.NVML_FI_DEV_PCIE_COUNT_TX_BYTES: now.pcie_tx,
            self.NVML_FI_DEV_PCIE_COUNT_RX_BYTES: now.pcie_rx,
        }
        member = {1: "uiVal", 2: "ulVal", 3: "ullVal"}[now.pcie_type]
        return [
            SimpleNamespace(
                fieldId=name,
                nvmlReturn=now.pcie_return,
                valueType=now.pcie_type,
                value=SimpleNamespace(**{member: counters[name]}),
            )
            for name in fields
        ]

    def _now(self, handle: int) -> Shown:
        return self.gpus[handle].script(self.now_s)
