"""Copies between host memory and a GPU's, by four ways of giving them to the driver.

A layer of n Full Blocks (paper 4.1) is n Layer Blocks, one in each: rows of memory at a constant pitch.
`copy_each` submits a copy a row, `copy_batch` all in one call (CUDA 12.8 or newer), `copy_pitched` all as one
two-dimensional copy; `copy_whole` is of memory without gaps.

All return when the copies are submitted, not done. Host memory has to be page-locked (`PinnedMemory`), and
the GPU current in the calling thread (`Gpu.current`, or torch's current device once torch has used it). A
stream is its raw handle: `Stream.handle`, or ``cuda_stream`` of a torch stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from hosts.cuda.driver import DEVICE_POINTER, CudaError, Driver

Direction = Literal["h2d", "d2h"]
"""Host to device, or device to host."""

_BATCH_SINCE = 12080  # after CUDA 12 it has other arguments: this is the variant to ask every driver for
_HOST, _DEVICE = 1, 2  # CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE
_STREAM_ORDER = 1  # CU_MEMCPY_SRC_ACCESS_ORDER_STREAM: what is before it on the stream may write the source


class Pitched(NamedTuple):
    """Rows of memory: the first at ``address``, each ``pitch_bytes`` behind the one before."""

    address: int
    pitch_bytes: int


Copy = Callable[[Pitched, Pitched, int, int, Direction, int], None]
"""`copy_each`, `copy_batch` or `copy_pitched`: destination, source, width, rows, direction, stream."""


def copy_each(
    destination: Pitched, source: Pitched, width_bytes: int, rows: int, direction: Direction, stream: int
) -> None:
    """One cuMemcpyHtoDAsync or cuMemcpyDtoHAsync a row of ``width_bytes``."""
    _check(destination, source, width_bytes)
    functions = _functions()
    copy = functions.of(direction)
    there, here = destination.address, source.address
    for row in range(rows):
        if code := copy(there, here, width_bytes, stream):
            what = f"row {row} of {rows} from {here:#x} to {there:#x}"
            raise functions.driver.error(f"{direction}, {width_bytes} bytes, {what}", code)
        there += destination.pitch_bytes
        here += source.pitch_bytes


def copy_batch(
    destination: Pitched, source: Pitched, width_bytes: int, rows: int, direction: Direction, stream: int
) -> None:
    """One cuMemcpyBatchAsync of all rows, on a stream that is not 0; CudaError where there is none."""
    _check(destination, source, width_bytes)
    functions = _functions()
    if functions.batch is None:
        raise CudaError(f"{direction}: {batch_missing()}")
    if not rows or not width_bytes:
        return  # a batch of nothing would be refused
    there, here = _addresses(destination, rows), _addresses(source, rows)  # held until the call is over
    widths = np.full(rows, width_bytes, np.uintp)
    failed = ctypes.c_size_t()
    code = functions.batch(
        there.ctypes.data,
        here.ctypes.data,
        widths.ctypes.data,
        rows,
        ctypes.byref(_Attributes(source_order=_STREAM_ORDER)),
        ctypes.byref(ctypes.c_size_t(0)),  # the first, and only, attributes hold from row 0 on
        1,
        ctypes.byref(failed),
        stream,
    )
    if code:
        which = f"row {failed.value} of {rows}" if failed.value < rows else f"{rows} rows, stream {stream:#x}"
        raise functions.driver.error(f"{direction}, cuMemcpyBatchAsync, {width_bytes} bytes, {which}", code)


def copy_pitched(
    destination: Pitched, source: Pitched, width_bytes: int, rows: int, direction: Direction, stream: int
) -> None:
    """One cuMemcpy2DAsync of all rows. Pitches are at most CU_DEVICE_ATTRIBUTE_MAX_PITCH, about 2 GiB."""
    _check(destination, source, width_bytes)
    functions = _functions()
    if not rows or not width_bytes:
        return
    from_host = direction == "h2d"
    copy = _Memcpy2D(
        source_type=_HOST if from_host else _DEVICE,
        source_host=source.address if from_host else None,
        source_device=0 if from_host else source.address,
        source_pitch=source.pitch_bytes,
        destination_type=_DEVICE if from_host else _HOST,
        destination_host=None if from_host else destination.address,
        destination_device=destination.address if from_host else 0,
        destination_pitch=destination.pitch_bytes,
        width=width_bytes,
        height=rows,
    )
    if code := functions.pitched(ctypes.byref(copy), stream):
        what = f"{rows} rows, {source.pitch_bytes} apart, to {destination.pitch_bytes} apart"
        raise functions.driver.error(f"{direction}, cuMemcpy2DAsync, {width_bytes} bytes, {what}", code)


def copy_whole(destination: int, source: int, nbytes: int, direction: Direction, stream: int) -> None:
    """One copy of ``nbytes`` from address to address."""
    copy_each(Pitched(destination, nbytes), Pitched(source, nbytes), nbytes, 1, direction, stream)


def batch_missing() -> str:
    """Why this driver has no `copy_batch`; empty if it has."""
    functions = _functions()
    if functions.batch is not None:
        return ""
    return (
        f"this driver has no cuMemcpyBatchAsync: found that of CUDA {functions.driver.version}, expected "
        "12.8 or newer"
    )


class _Location(ctypes.Structure):
    """CUmemLocation: a hint, for managed memory only."""

    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class _Attributes(ctypes.Structure):
    """CUmemcpyAttributes."""

    _fields_ = [
        ("source_order", ctypes.c_int),
        ("source_hint", _Location),
        ("destination_hint", _Location),
        ("flags", ctypes.c_uint),
    ]


class _Memcpy2D(ctypes.Structure):
    """CUDA_MEMCPY2D_v2."""

    _fields_ = [
        ("source_x", ctypes.c_size_t),
        ("source_y", ctypes.c_size_t),
        ("source_type", ctypes.c_int),
        ("source_host", ctypes.c_void_p),
        ("source_device", DEVICE_POINTER),
        ("source_array", ctypes.c_void_p),
        ("source_pitch", ctypes.c_size_t),
        ("destination_x", ctypes.c_size_t),
        ("destination_y", ctypes.c_size_t),
        ("destination_type", ctypes.c_int),
        ("destination_host", ctypes.c_void_p),
        ("destination_device", DEVICE_POINTER),
        ("destination_array", ctypes.c_void_p),
        ("destination_pitch", ctypes.c_size_t),
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    ]


_BATCH_ARGUMENTS = (
    ctypes.c_void_p,  # CUdeviceptr *dsts
    ctypes.c_void_p,  # CUdeviceptr *srcs
    ctypes.c_void_p,  # size_t *sizes
    ctypes.c_size_t,  # count
    ctypes.c_void_p,  # CUmemcpyAttributes *attrs
    ctypes.c_void_p,  # size_t *attrsIdxs
    ctypes.c_size_t,  # numAttrs
    ctypes.c_void_p,  # size_t *failIdx
    ctypes.c_void_p,  # CUstream
)


class _Functions(NamedTuple):
    """What copies are submitted with."""

    driver: Driver
    to_device: Callable[..., int]
    to_host: Callable[..., int]
    pitched: Callable[..., int]
    batch: Callable[..., int] | None

    def of(self, direction: Direction) -> Callable[..., int]:
        return self.to_device if direction == "h2d" else self.to_host


@cache
def _functions() -> _Functions:
    driver = Driver("copy")
    return _Functions(
        driver,
        driver.function("cuMemcpyHtoDAsync_v2"),
        driver.function("cuMemcpyDtoHAsync_v2"),
        driver.function("cuMemcpy2DAsync_v2"),
        driver.variant("cuMemcpyBatchAsync", _BATCH_SINCE, _BATCH_ARGUMENTS),
    )


def _check(destination: Pitched, source: Pitched, width_bytes: int) -> None:
    for which, rows in (("destination", destination), ("source", source)):
        if rows.pitch_bytes < width_bytes:
            raise ValueError(f"{which} {rows}: rows of {width_bytes} bytes would overlap")


def _addresses(rows: Pitched, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.arange(count, dtype=np.uint64) * np.uint64(rows.pitch_bytes) + np.uint64(rows.address)
