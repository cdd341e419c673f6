"""Streams, whose work a GPU does in order, and events, which say when it has come so far.

The GPU is current (`Gpu.current`) in the thread that uses them; nothing is added to the calls that are timed.
"""

from __future__ import annotations

import ctypes

from hosts.cuda.driver import Gpu, giving_back

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: waits for nothing on stream 0


class Stream:
    """A stream of its own on a GPU, ``handle`` to the driver, until `close`."""

    def __init__(self, gpu: Gpu) -> None:
        self._driver = gpu.driver
        handle = ctypes.c_void_p()
        self._driver.call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        self.handle = handle.value or 0

    def synchronize(self) -> None:
        """Wait until the GPU has done all that is on it; CudaError if some of it failed."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        """Wait, and give it back: afterwards the memory that it copied may be freed."""
        with giving_back():
            self.synchronize()
        with giving_back():
            self._driver.call("cuStreamDestroy_v2", self.handle)


class Event:
    """A moment in a stream, until `close`. The GPU notes when it gets there, to about 0.5 us."""

    def __init__(self, gpu: Gpu) -> None:
        self._driver = gpu.driver
        handle = ctypes.c_void_p()
        self._driver.call("cuEventCreate", ctypes.byref(handle), 0)
        self._handle = handle.value

    def record(self, stream: Stream) -> None:
        """Behind all that is on ``stream`` now."""
        self._driver.call("cuEventRecord", self._handle, stream.handle)

    def seconds_since(self, earlier: Event) -> float:
        """From another recorded event to this one, once the GPU has got here."""
        self._driver.call("cuEventSynchronize", self._handle)
        milliseconds = ctypes.c_float()
        self._driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier._handle, self._handle)
        return milliseconds.value / 1e3

    def close(self) -> None:
        """Give it back."""
        with giving_back():
            self._driver.call("cuEventDestroy_v2", self._handle)
