"""KV between host memory and a device's through the host's compute NIC (paper 5.2).

What the NIC writes to and reads from lies in a landing zone of each lane: little memory, registered once. The
device itself copies between there and the slots, at the rate of its own memory. So any part of that may hold
KV, also of a GPU that shows the NIC little of its memory (BAR1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from hosts.buffers import BufferArena
from hosts.compute.nic_path import NicPath, located
from hosts.compute.torch.copying import CopyLanes
from hosts.compute.torch.device import Mark, bind, open_lane
from hosts.cuda.driver import Gpu
from hosts.cuda.memory import DeviceBuffer
from hosts.rails import share
from hosts.transport import Region, Strided

LANDING_BYTES = 16 * 1024 * 1024
"""Of each half of a zone; a row is never more."""
_HALVES = 2
_PAGE_BYTES = 4096


class NicCopying:
    """See `Copying`. ``nics`` are shared by ``engines``; ``filler`` is host memory beside their regions."""

    def __init__(self, nics: Sequence[NicPath], engines: int, filler: NDArray[np.uint8]) -> None:
        self._engines, self._resources = engines, ExitStack()
        self._nics = [(nic, (nic.host_region, self._offered(nic, filler))) for nic in nics]

    def lanes(self, engine: int, device: torch.device) -> CopyLanes:
        """See `Copying`."""
        nic, regions = self._nics[share(engine, self._engines, len(self._nics))]
        return CopyLanes(self._lane(nic, regions, device), self._lane(nic, regions, device))

    def close(self) -> None:
        """See `Copying`."""
        self._resources.close()

    def _offered(self, nic: NicPath, memory: NDArray[np.uint8]) -> Region:
        region = nic.offer(memory)
        self._resources.callback(nic.withdraw, region)
        return region

    def _lane(self, nic: NicPath, regions: Sequence[Region], device: torch.device) -> NicLane:
        zone = LandingZone(nic, device)
        self._resources.callback(zone.close)
        lane = NicLane(nic, regions, zone, device)
        self._resources.callback(lane.close)
        return lane


class LandingZone:
    """Two halves of a device's memory that the NIC may write and read, until `close`."""

    def __init__(self, nic: NicPath, device: torch.device) -> None:
        nbytes = _HALVES * LANDING_BYTES
        with ExitStack() as resources:
            if device.type == "cuda":
                gpu = Gpu(device.index)
                resources.callback(gpu.close)
                memory = DeviceBuffer(gpu, nbytes)
                resources.callback(memory.close)
                self.region = nic.offer(memory)
                both = torch.as_tensor(_CudaArray(memory.address, nbytes), device=device)
            else:
                arena = BufferArena(nbytes, _PAGE_BYTES)
                self.region = nic.offer(arena.view)
                both = torch.from_numpy(arena.view)
            resources.callback(nic.withdraw, self.region)
            self.halves = both[:LANDING_BYTES], both[LANDING_BYTES:nbytes]
            self._resources = resources.pop_all()

    def rows(self, half: int, count: int, width: int) -> tuple[torch.Tensor, Strided]:
        """The beginning of a half as [count, width], and where the NIC finds it."""
        nbytes = count * width
        return self.halves[half][:nbytes].view(count, width), Strided(half * LANDING_BYTES, nbytes)

    def close(self) -> None:
        """Withdraw it from the NIC, and free it."""
        self._resources.close()


class NicLane:
    """See `CopyLane`. A thread of its own waits for the NIC and, where it is told to, for other lanes."""

    def __init__(
        self, nic: NicPath, regions: Sequence[Region], zone: LandingZone, device: torch.device
    ) -> None:
        self._nic, self._regions, self._zone = nic, regions, zone
        self._moving = open_lane(device)  # between the zone and slots
        self._thread = ThreadPoolExecutor(1, "nic", initializer=partial(bind, device))
        self._given: list[Future[None]] = []

    def entered(self) -> AbstractContextManager[object]:
        """See `Lane`: torch is asked for nothing."""
        return nullcontext()

    def mark(self) -> NicMark:
        """See `Lane`. What fails before it, it is that says so."""
        given, self._given = self._given, []
        return NicMark(given, self._thread.submit(time.perf_counter_ns))

    def after(self, mark: Mark) -> None:
        """See `Lane`."""
        self._do(mark.wait)

    def load(self, rows: NDArray[np.uint8], target: torch.Tensor) -> None:
        """See `CopyLane`."""
        self._do(partial(self._load, rows, target))

    def unload(self, source: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """See `CopyLane`."""
        self._do(partial(self._unload, source, rows))

    def close(self) -> None:
        """End the thread, when what was asked for is done."""
        self._thread.shutdown()

    def _do(self, work: Callable[[], None]) -> None:
        self._given.append(self._thread.submit(_without_gradients, work))

    def _load(self, rows: NDArray[np.uint8], target: torch.Tensor) -> None:
        """While the NIC fills one half of the zone, the device empties the other."""
        moved: list[Mark] = []
        for number, part in enumerate(_parts(len(rows), rows.shape[1])):
            if number >= _HALVES:
                moved[number - _HALVES].wait()
            landed, there = self._zone.rows(number % _HALVES, len(part), rows.shape[1])
            region, here = located(rows[part.start : part.stop], self._regions)
            self._nic.write(region, here, self._zone.region, there)
            with self._moving.entered():
                target[part.start : part.stop].copy_(landed)
            moved.append(self._moving.mark())
        for mark in moved[-_HALVES:]:
            mark.wait()

    def _unload(self, source: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        for part in _parts(len(rows), rows.shape[1]):
            leaving, here = self._zone.rows(0, len(part), rows.shape[1])
            with self._moving.entered():
                leaving.copy_(source[part.start : part.stop])
            self._moving.mark().wait()
            region, there = located(rows[part.start : part.stop], self._regions)
            self._nic.write(self._zone.region, here, region, there)


class NicMark:
    """See `Mark`."""

    def __init__(self, given: Sequence[Future[None]], reached: Future[int]) -> None:
        self._given, self._reached = given, reached

    def wait(self) -> None:
        """See `Mark`; raises what went wrong on the way."""
        self._reached.result()
        for work in self._given:
            work.result()

    def ns_since(self, earlier: Mark) -> int:
        """See `Mark`."""
        assert isinstance(earlier, NicMark)
        return self._reached.result() - earlier._reached.result()


class _CudaArray:
    """GPU memory that is not torch's own, as torch takes it (CUDA array interface, version 3)."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _parts(rows: int, width: int) -> Iterator[range]:
    """Rows that a half of the zone holds at once."""
    at_once = LANDING_BYTES // width
    for first in range(0, rows, at_once):
        yield range(first, min(rows, first + at_once))


def _without_gradients(work: Callable[[], None]) -> None:
    with torch.inference_mode():
        work()
