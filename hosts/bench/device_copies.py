"""A layer's Layer Blocks between host memory, where they lie in Full Blocks, and a GPU's, with no gaps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hosts.buffers import BufferArena
from hosts.content import fill_blocks, mismatched
from hosts.cuda.copies import (
    Copy,
    Direction,
    Pitched,
    batch_missing,
    copy_batch,
    copy_each,
    copy_pitched,
    copy_whole,
)
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer, PinnedMemory
from hosts.cuda.streams import Event, Stream

Way = Literal["each", "batch", "pitched", "whole"]
"""`hosts.cuda.copies` has one function each; ``whole`` moves as many bytes without gaps: the reference."""

_PAGE_BYTES = 4096
_SEED = 1


class Layer(msgspec.Struct, frozen=True):
    """One of ``layers`` layers of ``blocks`` Full Blocks [blocks, layers, block_bytes] in host memory."""

    block_bytes: int
    blocks: int
    layers: int

    @property
    def nbytes(self) -> int:
        """What is copied."""
        return self.block_bytes * self.blocks

    @property
    def full_block_bytes(self) -> int:
        """From one Layer Block to the next."""
        return self.block_bytes * self.layers

    @property
    def offset_bytes(self) -> int:
        """Of a layer in the middle, with others before and behind it where there are so many."""
        return self.layers // 2 * self.block_bytes


class CopyTimes(msgspec.Struct, frozen=True):
    """One way in one round: medians over ``copies`` copies of the layer, each on an empty stream.

    ``device_s``: by CUDA events, from before the first block is submitted until the last one has arrived.
    ``submit_s``: of the calls that submit the layer, by this host's monotonic clock.
    """

    copies: int
    device_s: float
    submit_s: float


class LayerCopies:
    """Memory for ``layer`` at both ends and the ways to copy it, until `close`. ``gpu`` is current."""

    def __init__(self, gpu: Gpu, layer: Layer, direction: Direction) -> None:
        self._gpu, self._layer, self._direction = gpu, layer, direction
        self._ids = np.arange(layer.blocks)
        with ExitStack() as resources:
            self._device = DeviceBuffer(gpu, layer.nbytes)
            resources.callback(self._device.close)
            arena = BufferArena(layer.full_block_bytes * layer.blocks, _PAGE_BYTES, pages="transparent")
            self._host = arena.view[: layer.full_block_bytes * layer.blocks]
            self._pinned = PinnedMemory(gpu, self._host)
            resources.callback(self._pinned.close)
            self._stream = Stream(gpu)
            resources.callback(self._stream.close)
            self._begin = Event(gpu)
            resources.callback(self._begin.close)
            self._end = Event(gpu)
            resources.callback(self._end.close)
            self.ways: dict[Way, Callable[[], None]] = {
                "each": self._column(copy_each),
                "batch": self._column(copy_batch),
                "pitched": self._column(copy_pitched),
                "whole": partial(copy_whole, *self._ends(), layer.nbytes, direction, self._stream.handle),
            }
            if batch_missing():
                del self.ways["batch"]
            self._resources = resources.pop_all()

    def verify(self) -> None:
        """Copy known bytes by each way into zeros, and look at both ends; CudaError if a byte of them is
        wrong, or one beside them."""
        for way in self.ways:
            self._write(way)
            self.ways[way]()
            self._stream.synchronize()
            self._check(way)

    def time(self, way: Way, seconds: float) -> CopyTimes:
        """Copy the layer again and again for ``seconds``, at least once, after one that does not count."""
        submit = self.ways[way]
        submit()
        self._stream.synchronize()
        device_s: list[float] = []
        submit_s: list[float] = []
        ends_at = time.monotonic() + seconds
        while not device_s or time.monotonic() < ends_at:
            self._begin.record(self._stream)
            began_at = time.monotonic()
            submit()
            submitted_at = time.monotonic()
            self._end.record(self._stream)
            device_s.append(self._end.seconds_since(self._begin))
            submit_s.append(submitted_at - began_at)
        return CopyTimes(len(device_s), statistics.median(device_s), statistics.median(submit_s))

    def close(self) -> None:
        """Give everything back."""
        self._resources.close()

    def _column(self, copy: Copy) -> Callable[[], None]:
        layer = self._layer
        on_device = Pitched(self._device.address, layer.block_bytes)
        on_host = Pitched(self._pinned.address + layer.offset_bytes, layer.full_block_bytes)
        ends = (on_device, on_host) if self._direction == "h2d" else (on_host, on_device)
        return partial(copy, *ends, layer.block_bytes, layer.blocks, self._direction, self._stream.handle)

    def _ends(self) -> tuple[int, int]:
        ends = self._device.address, self._pinned.address
        return ends if self._direction == "h2d" else ends[::-1]

    def _on_host(self, way: Way) -> NDArray[np.uint8]:
        """[blocks, block_bytes] of host memory that are copied."""
        layer = self._layer
        if way == "whole":
            return self._host[: layer.nbytes].reshape(layer.blocks, layer.block_bytes)
        full_blocks = self._host.reshape(layer.blocks, layer.full_block_bytes)
        return full_blocks[:, layer.offset_bytes : layer.offset_bytes + layer.block_bytes]

    def _write(self, way: Way) -> None:
        self._host.fill(0)
        fill_blocks(self._on_host(way), _SEED, self._ids)
        if self._direction == "h2d":
            self._device.clear()
        else:
            self._device.write(np.ascontiguousarray(self._on_host(way)))
            self._host.fill(0)

    def _check(self, way: Way) -> None:
        on_host, on_device = self._on_host(way), self._device.read().reshape(self._layer.blocks, -1)
        wrong = {
            "wrong blocks on the GPU": mismatched(on_device, _SEED, self._ids).size,
            "wrong blocks in host memory": mismatched(on_host, _SEED, self._ids).size,
        }
        on_host.fill(0)
        wrong["changed bytes beside them in host memory"] = int(np.count_nonzero(self._host))
        for what, number in wrong.items():
            if number:
                raise CudaError(
                    f"GPU {self._gpu.ordinal}: {way}, {self._direction}, {self._layer.blocks} blocks of "
                    f"{self._layer.block_bytes} bytes: {what}: {number}, expected none; what copies wrongly "
                    "is not timed"
                )
