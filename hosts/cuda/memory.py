"""Memory that copies and NICs reach: a GPU's own, and host memory that is page-locked.

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
_WRITES_ORDERING = 118  # CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING
_TO_OWNER = 100  # CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER
_TARGET_CURRENT_CONTEXT = 0  # CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX
_DMA_BUF_FD = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE


class DeviceBuffer:
    """``nbytes`` of a GPU's memory from ``address`` on, zeros at first, until `close`."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.nbytes, self.gpu = nbytes, gpu
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
        with self.gpu.current():
            self.gpu.driver.call("cuMemsetD8_v2", self.address, 0, self.nbytes)
            self.gpu.driver.call("cuCtxSynchronize")

    def write(self, content: NDArray[np.uint8]) -> None:
        """``content``, all of it, has arrived when it returns."""
        with self.gpu.current():
            self.gpu.driver.call("cuMemcpyHtoD_v2", self.address, content.ctypes.data, self.nbytes)
            self.gpu.driver.call("cuCtxSynchronize")  # the copy may end in staging memory

    def read(self) -> NDArray[np.uint8]:
        """All of it as it is now."""
        content = np.empty(self.nbytes, np.uint8)
        with self.gpu.current():
            self.gpu.driver.call("cuMemcpyDtoH_v2", content.ctypes.data, self.address, self.nbytes)
        return content

    def flush(self) -> None:
        """Let the GPU see what NICs have written (GPUDirect RDMA), if it does not do so by itself."""
        if self.gpu.attribute(_WRITES_ORDERING) < _TO_OWNER:
            with self.gpu.current():
                self.gpu.driver.call("cuFlushGPUDirectRDMAWrites", _TARGET_CURRENT_CONTEXT, _TO_OWNER)

    def close(self) -> None:
        """Free it. Copies and NICs must have let go of it before."""
        with giving_back(), self.gpu.current():
            self.gpu.driver.call("cuMemFree_v2", self.address)


def dma_buf(buffer: DeviceBuffer) -> int:
    """A file descriptor by which NICs reach ``buffer``, whole host pages; the caller closes it when they have
    let go of it."""
    gpu, page = buffer.gpu, os.sysconf("SC_PAGE_SIZE")
    if not gpu.attribute(_DMA_BUF_SUPPORTED):
        raise CudaError(
            f"GPU {gpu.ordinal}: its driver hands out no dma-buf; expected the open kernel modules of "
            "driver 515 or newer, on Linux 5.12 or newer"
        )
    if buffer.nbytes % page:
        raise CudaError(
            f"GPU {gpu.ordinal}: a dma-buf of {buffer.nbytes} bytes; expected whole pages of {page}: round up"
        )
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
