"""The CUDA driver's own library, libcuda.so.1, which comes with every GPU's driver (CUDA Driver API).

Signatures are cuda.h's of CUDA 12.8; the library keeps what it once had, so they hold for every newer driver.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LIBRARY = "libcuda.so.1"
_log = logging.getLogger(__name__)

DEVICE_POINTER = ctypes.c_uint64
"""CUdeviceptr: an address that GPUs and, for host memory, this process use alike."""
_INT, _FLAGS, _SIZE = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t
_POINTER = ctypes.c_void_p  # to host memory or a result; or CUcontext, CUstream, CUevent

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_FLAGS,),
    "cuDriverGetVersion": (_POINTER,),
    "cuGetErrorString": (_INT, _POINTER),
    "cuGetProcAddress_v2": (ctypes.c_char_p, _POINTER, _INT, ctypes.c_uint64, _POINTER),
    "cuDeviceGetCount": (_POINTER,),
    "cuDeviceGet": (_POINTER, _INT),
    "cuDeviceGetName": (_POINTER, _INT, _INT),
    "cuDeviceGetAttribute": (_POINTER, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_POINTER, _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxPushCurrent_v2": (_POINTER,),
    "cuCtxPopCurrent_v2": (_POINTER,),
    "cuCtxSynchronize": (),
    "cuMemAlloc_v2": (_POINTER, _SIZE),
    "cuMemFree_v2": (DEVICE_POINTER,),
    "cuMemGetHandleForAddressRange": (_POINTER, DEVICE_POINTER, _SIZE, _INT, ctypes.c_ulonglong),
    "cuFlushGPUDirectRDMAWrites": (_INT, _INT),
    "cuMemHostRegister_v2": (_POINTER, _SIZE, _FLAGS),
    "cuMemHostUnregister": (_POINTER,),
    "cuMemsetD8_v2": (DEVICE_POINTER, ctypes.c_ubyte, _SIZE),
    "cuMemcpyHtoD_v2": (DEVICE_POINTER, _POINTER, _SIZE),
    "cuMemcpyDtoH_v2": (_POINTER, DEVICE_POINTER, _SIZE),
    "cuMemcpyHtoDAsync_v2": (DEVICE_POINTER, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, DEVICE_POINTER, _SIZE, _POINTER),
    "cuMemcpy2DAsync_v2": (_POINTER, _POINTER),
    "cuStreamCreate": (_POINTER, _FLAGS),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuEventCreate": (_POINTER, _FLAGS),
    "cuEventRecord": (_POINTER, _POINTER),
    "cuEventSynchronize": (_POINTER,),
    "cuEventElapsedTime": (_POINTER, _POINTER, _POINTER),
    "cuEventDestroy_v2": (_POINTER,),
}
_FIXES = {
    2: "free GPU memory, or move less at once",  # CUDA_ERROR_OUT_OF_MEMORY
    34: f"{_LIBRARY} is the toolkit's stub: take its folder out of LD_LIBRARY_PATH",  # ..._STUB_LIBRARY
    100: "is there one (nvidia-smi), and does CUDA_VISIBLE_DEVICES show it?",  # ..._NO_DEVICE
    803: f"{_LIBRARY} and the kernel's module differ: reboot, or reinstall the driver",  # ..._DRIVER_MISMATCH
}


class CudaError(Exception):
    """The CUDA driver refuses, or there is none: which GPU, what was tried, why, and what to do."""


@contextmanager
def giving_back() -> Iterator[None]:
    """Who gives something back may be on the way out of an error, which is the one to raise: one of here is
    logged."""
    try:
        yield
    except CudaError as error:
        _log.warning("%s", error)


class Driver:
    """The driver's functions by their names in the library; errors begin with ``subject``."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._functions: dict[str, Callable[..., int]] = {}
        try:
            self._library: Any = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CudaError(
                f"no CUDA driver on this host: found {error}; expected the library that comes with a GPU's "
                "driver: install that, go where nvidia-smi shows a GPU, or keep to host memory"
            ) from error

    def function(self, name: str) -> Callable[..., int]:
        """``name`` itself, which returns a CUresult: for loops in which one more call would show."""
        if found := self._functions.get(name):
            return found
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CudaError(
                f"{self._subject}: the CUDA driver has no {name}; expected that of CUDA 11.7 or newer, found "
                f"CUDA {self.version}"
            ) from None
        function.argtypes = _SIGNATURES[name]
        self._functions[name] = function
        return function  # type: ignore[no-any-return]

    def variant(self, name: str, version: int, argtypes: Sequence[Any]) -> Callable[..., int] | None:
        """``name`` as CUDA ``version`` (12080 is 12.8) had it, also from a driver in which it has changed
        since (cuGetProcAddress); None from one that is older."""
        found = ctypes.c_void_p()
        try:
            search = self.function("cuGetProcAddress_v2")
        except CudaError:  # older than CUDA 12
            return None
        code = search(name.encode(), ctypes.byref(found), version, 0, None)
        return ctypes.CFUNCTYPE(ctypes.c_int, *argtypes)(found.value) if not code and found.value else None

    def call(self, name: str, *arguments: object) -> None:
        """Call ``name``; CudaError if it does not return CUDA_SUCCESS."""
        if code := self.function(name)(*arguments):
            raise self.error(name, code)

    def error(self, what: str, code: int) -> CudaError:
        """``what`` returned ``code``, in the driver's words."""
        text = ctypes.c_char_p()
        known = not self.function("cuGetErrorString")(code, ctypes.byref(text)) and text.value
        words = f"{text.value.decode()} [CUDA error {code}]" if known and text.value else f"CUDA error {code}"
        fix = f"; {_FIXES[code]}" if code in _FIXES else ""
        return CudaError(f"{self._subject}: {what}: {words}{fix}")

    @property
    def version(self) -> str:
        """The newest CUDA whose functions the driver has, as ``12.8``."""
        number = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"


class Gpu:
    """GPU ``ordinal`` of those that $CUDA_VISIBLE_DEVICES shows, by its primary context, the one that torch
    uses, until `close`."""

    def __init__(self, ordinal: int = 0) -> None:
        self.ordinal = ordinal
        self.driver = Driver(f"GPU {ordinal}")
        self.driver.call("cuInit", 0)
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self.driver.call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= ordinal < count.value:
            raise CudaError(
                f"GPU {ordinal}: not there; found {count.value}, counted from 0: choose one of these, or see "
                "that CUDA_VISIBLE_DEVICES shows more"
            )
        self.driver.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._device = device.value
        self.driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context.value

    @property
    def name(self) -> str:
        """As its vendor calls it."""
        text = ctypes.create_string_buffer(256)
        self.driver.call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode()

    def attribute(self, number: int) -> int:
        """One of enum CUdevice_attribute."""
        value = ctypes.c_int()
        self.driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    @contextmanager
    def current(self) -> Iterator[None]:
        """This thread's calls go to this GPU; afterwards to the one before."""
        self.driver.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            with giving_back():
                self.driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def close(self) -> None:
        """Let go of it. What was allocated on it has been freed before."""
        with giving_back():
            self.driver.call("cuDevicePrimaryCtxRelease_v2", self._device)
