"""GPU memory that NICs can reach: allocated by the CUDA driver and handed out as a dma-buf.

Through the driver's own library (CUDA Driver API), which comes with every GPU's driver, so that transfers
need no CUDA toolkit and no torch. A NIC reaches the memory by a dma-buf (cuMemGetHandleForAddressRange,
CUDA 11.7 and Linux 5.12 or newer), the successor of nvidia_peermem.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from typing import Any

_LIBRARY = "libcuda.so.1"
_DMA_BUF_SUPPORTED = 124  # CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED
_DMA_BUF_FD = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
_OUT_OF_MEMORY = 2


class DeviceMemoryError(Exception):
    """The GPU memory cannot be had: which GPU, what was tried, why, and what to do."""


class DeviceMemory:
    """``nbytes`` of GPU ``ordinal``'s memory, rounded up to host pages, from `open` to `close`.

    ``fd`` is its dma-buf.
    """

    def __init__(self, nbytes: int, ordinal: int = 0) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        self.nbytes, self.ordinal = -(-nbytes // page) * page, ordinal
        driver = _Driver(ordinal)
        with ExitStack() as resources:
            device, context = ctypes.c_int(), ctypes.c_void_p()
            driver.call("cuInit", 0)
            driver.call("cuDeviceGet", ctypes.byref(device), ordinal)
            supported = ctypes.c_int()
            driver.call("cuDeviceGetAttribute", ctypes.byref(supported), _DMA_BUF_SUPPORTED, device)
            if not supported.value:
                raise DeviceMemoryError(
                    f"GPU {ordinal}: its driver hands out no dma-buf; expected the open kernel modules of "
                    "driver 515 or newer, on Linux 5.12 or newer"
                )
            driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            resources.callback(driver.call, "cuDevicePrimaryCtxRelease_v2", device)
            driver.call("cuCtxSetCurrent", context)
            address = ctypes.c_uint64()
            driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(self.nbytes))
            resources.callback(driver.call, "cuMemFree_v2", address)
            driver.call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(self.nbytes))
            descriptor = ctypes.c_int()
            driver.call(
                "cuMemGetHandleForAddressRange",
                ctypes.byref(descriptor),
                address,
                ctypes.c_size_t(self.nbytes),
                _DMA_BUF_FD,
                ctypes.c_uint64(0),
            )
            resources.callback(os.close, descriptor.value)
            self.fd = descriptor.value
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Free it. NICs must have let go of it before."""
        self._resources.close()


class _Driver:
    """The driver's functions, with their results as exceptions."""

    def __init__(self, ordinal: int) -> None:
        self._ordinal = ordinal
        try:
            self._library: Any = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise DeviceMemoryError(
                f"GPU {ordinal}: no CUDA driver on this host ({error}); install the GPU's driver, or use "
                "host memory"
            ) from error

    def call(self, name: str, *arguments: object) -> None:
        """Call ``name``; DeviceMemoryError if it does not return CUDA_SUCCESS."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise DeviceMemoryError(
                f"GPU {self._ordinal}: the CUDA driver has no {name}; expected CUDA 11.7 or newer"
            ) from None
        if code := function(*arguments):
            hint = "; free GPU memory, or move less at once" if code == _OUT_OF_MEMORY else ""
            raise DeviceMemoryError(f"GPU {self._ordinal}: {name}: {self._words(code)}{hint}")

    def _words(self, code: int) -> str:
        text = ctypes.c_char_p()
        known = not self._library.cuGetErrorString(code, ctypes.byref(text)) and text.value
        return f"{text.value.decode()} [CUDA error {code}]" if known and text.value else f"CUDA error {code}"
