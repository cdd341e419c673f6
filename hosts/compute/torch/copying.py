"""KV between host memory and a device's: a lane for each direction, by the device's copy engines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hosts.compute.torch.device import CpuLane, CudaLane, Lane
from hosts.cuda.copies import Pitched, copy_pitched
from hosts.cuda.driver import Gpu
from hosts.cuda.memory import PinnedMemory


class CopyLane(Lane, Protocol):
    """A lane that copies rows [n, width] of host memory and of the device's, each any stride apart."""

    def load(self, rows: NDArray[np.uint8], target: torch.Tensor) -> None:
        """Host memory to device."""

    def unload(self, source: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """Device to host memory."""


class CopyLanes(NamedTuple):
    """An engine's."""

    copy_in: CopyLane
    copy_out: CopyLane


class Copying(Protocol):
    """How a host's engines copy KV, until `close`."""

    def lanes(self, engine: int, device: torch.device) -> CopyLanes:
        """Two of an engine's own."""

    def close(self) -> None:
        """Let go of host memory. Nothing is under way any more."""


class CopyEngines:
    """See `Copying`. ``memories``, in which the KV lies, are page-locked while there are GPUs."""

    def __init__(self, devices: Sequence[torch.device], memories: Sequence[NDArray[np.uint8]]) -> None:
        with ExitStack() as resources:
            if devices and devices[0].type == "cuda":
                gpu = Gpu(devices[0].index)
                resources.callback(gpu.close)
                for memory in memories:
                    resources.callback(PinnedMemory(gpu, memory).close)
            self._resources = resources.pop_all()

    def lanes(self, engine: int, device: torch.device) -> CopyLanes:
        """See `Copying`."""
        if device.type == "cuda":
            return CopyLanes(CudaCopyLane(device), CudaCopyLane(device))
        return CopyLanes(CpuCopyLane(), CpuCopyLane())

    def close(self) -> None:
        """See `Copying`."""
        self._resources.close()


class CudaCopyLane(CudaLane):
    """See `CopyLane`: rows are one strided copy."""

    def load(self, rows: NDArray[np.uint8], target: torch.Tensor) -> None:
        """See `CopyLane`."""
        copy_pitched(_of(target), _here(rows), rows.shape[1], len(rows), "h2d", self.handle)

    def unload(self, source: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """See `CopyLane`."""
        copy_pitched(_here(rows), _of(source), rows.shape[1], len(rows), "d2h", self.handle)


class CpuCopyLane(CpuLane):
    """See `CopyLane`."""

    def load(self, rows: NDArray[np.uint8], target: torch.Tensor) -> None:
        """See `CopyLane`."""
        target.copy_(torch.from_numpy(rows))

    def unload(self, source: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """See `CopyLane`."""
        torch.from_numpy(rows).copy_(source)


def _of(rows: torch.Tensor) -> Pitched:
    return Pitched(rows.data_ptr(), rows.stride(0))


def _here(rows: NDArray[np.uint8]) -> Pitched:
    return Pitched(rows.ctypes.data, rows.strides[0])
