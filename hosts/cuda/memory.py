"""Memory that copies and NICs reach: a GPU's own, the same as a dma-buf, and host memory that is page-locked.

A NIC reaches a GPU's memory by a dma-buf (cuMemGetHandleForAddressRange, CUDA 11.7 and Linux 5.12 or newer),
the successor of nvidia_peermem.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from hosts.cuda.driver import CudaError, Gpu, giving_back

_DMA_BUF_SUPPORTED = 124  # CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED
_DMA_BUF_FD = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE


class DeviceBuffer:
    """``nbytes`` of a GPU's memory from ``address`` on, zeros at first, until `close`."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.nbytes, self._gpu = nbytes, gpu
        address = ctypes.c_uint64()
        with gpu.current(), ExitStack() as resources:
            gpu.driver.call("cuMemAlloc_v2", ctypes.byref(address), nbytes)
            self.address = address.value
            resources.callback(self.close)
            self.clear()
            resources.pop_all()

    def clear(self) -> None:
        """Zeros everywhere when it returns: cuMemset is asynchronous, and streams and NICs do not wait for
        it."""
        with self._gpu.current():
            self._gpu.driver.call("cuMemsetD8_v2", self.address, 0, self.nbytes)
            self._gpu.driver.call("cuCtxSynchronize")

    def write(self, content: NDArray[np.uint8]) -> None:
        """``content``, all of it, has arrived when it returns."""
        with self._gpu.current():
            self._gpu.driver.call("cuMemcpyHtoD_v2", self.address, content.ctypes.data, self.nbytes)
            self._gpu.driver.call("cuCtxSynchronize")  # the copy may end in staging memory

    def read(self) -> NDArray[np.uint8]:
        """All of it as it is now."""
        content = np.empty(self.nbytes, np.uint8)
        with self._gpu.current():
            self._gpu.driver.call("cuMemcpyDtoH_v2", content.ctypes.data, self.address, self.nbytes)
        return content

    def close(self) -> None:
        """Free it. Copies and NICs must have let go of it before."""
        with giving_back(), self._gpu.current():
            self._gpu.driver.call("cuMemFree_v2", self.address)


class DeviceMemory:
    """``nbytes`` of GPU ``ordinal``'s memory, rounded up to host pages, for NICs, until `close`.

    ``address`` is that of its first byte, ``fd`` its dma-buf.
    """

    def __init__(self, nbytes: int, ordinal: int = 0) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        self.nbytes, self.ordinal = -(-nbytes // page) * page, ordinal
        with ExitStack() as resources:
            gpu = Gpu(ordinal)
            resources.callback(gpu.close)
            if not gpu.attribute(_DMA_BUF_SUPPORTED):
                raise CudaError(
                    f"GPU {ordinal}: its driver hands out no dma-buf; expected the open kernel modules of "
                    "driver 515 or newer, on Linux 5.12 or newer"
                )
            buffer = DeviceBuffer(gpu, self.nbytes)
            resources.callback(buffer.close)
            self.address = buffer.address
            self.fd = _dma_buf(gpu, buffer)
            resources.callback(os.close, self.fd)
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Free it. NICs must have let go of it before."""
        self._resources.close()


def _dma_buf(gpu: Gpu, buffer: DeviceBuffer) -> int:
    descriptor = ctypes.c_int()
    with gpu.current():
        gpu.driver.call(
            "cuMemGetHandleForAddressRange",
            ctypes.byref(descriptor),
            buffer.address,
            buffer.nbytes,
            _DMA_BUF_FD,
            0,
        )
    return descriptor.value


class PinnedMemory:
    """``memory`` of this host, page-locked for all its GPUs (cuMemHostRegister) until `close`.

    From and to any other memory a copy is staged by the driver, and not asynchronous.
    """

    def __init__(self, gpu: Gpu, memory: NDArray[np.uint8]) -> None:
        self.view, self._gpu = memory, gpu
        self.address: int = memory.ctypes.data
        with gpu.current():
            gpu.driver.call("cuMemHostRegister_v2", self.address, memory.nbytes, _PORTABLE)

    def close(self) -> None:
        """Let the kernel page it again. Copies must have let go of it before."""
        with giving_back(), self._gpu.current():
            self._gpu.driver.call("cuMemHostUnregister", self.address)
