"""KV between host memory and a device's through the host's compute NIC (paper 5.2).

What the NIC writes to and reads from lies in a landing zone of each lane: little memory, registered once. The
device itself copies between there and the slots, at the rate of its own memory. So any part of that may hold
KV, also of a GPU that shows the NIC little of its memory (BAR1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue

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
        self._memory: DeviceBuffer | None = None
        with ExitStack() as resources:
            if device.type == "cuda":
                gpu = Gpu(device.index)
                resources.callback(gpu.close)
                self._memory = DeviceBuffer(gpu, nbytes)
                resources.callback(self._memory.close)
                self.region = nic.offer(self._memory)
                both = torch.as_tensor(_CudaArray(self._memory.address, nbytes), device=device)
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

    def flush(self) -> None:
        """The device sees what the NIC has written."""
        if self._memory is not None:
            self._memory.flush()

    def close(self) -> None:
        """Withdraw it from the NIC, and free it."""
        self._resources.close()


class NicLane:
    """See `CopyLane`. While the NIC is at one half of the zone, the device fills or empties the other.

    Two threads of its own: one gives work to the NIC and waits for other lanes, one sees it done.
    """

    def __init__(
        self, nic: NicPath, regions: Sequence[Region], zone: LandingZone, device: torch.device
    ) -> None:
        self._nic, self._regions, self._zone = nic, regions, zone
        self._moving = open_lane(device)  # between the zone and slots
        self._starting, self._ending = (
            ThreadPoolExecutor(1, f"nic {what}", initializer=partial(bind, device))
            for what in ("starts", "ends")
        )
        self._halves: SimpleQueue[int] = SimpleQueue()
        for half in range(_HALVES):
            self._halves.put(half)
        self._given: list[Future[None]] = []

    def mark(self) -> NicMark:
        """See `Lane`. It is the one that says what failed before it."""
        given, self._given = self._given, []
        reached: Future[None] = Future()
        self._starting.submit(self._ending.submit, _settle, reached, lambda: None)
        return NicMark([*given, reached])

    def after(self, mark: Mark) -> None:
        """See `Lane`."""
        self._given.append(self._starting.submit(mark.wait))

    def load(self, rows: NDArray[np.uint8], target: torch.Tensor) -> None:
        """See `CopyLane`."""
        for part in _parts(len(rows), rows.shape[1]):
            self._give(partial(self._write_in, rows[part], target[part]))

    def unload(self, source: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """See `CopyLane`."""
        for part in _parts(len(rows), rows.shape[1]):
            self._give(partial(self._write_out, source[part], rows[part]))

    def close(self) -> None:
        """End the threads, when what was asked for is done."""
        self._starting.shutdown()
        self._ending.shutdown()

    def _give(self, start: Callable[[int], Callable[[], None]]) -> None:
        """A part: ``start`` is called with a half that is free, and gives what is to be done at its end."""
        done: Future[None] = Future()
        self._given.append(done)
        self._starting.submit(self._start, start, done)

    def _start(self, start: Callable[[int], Callable[[], None]], done: Future[None]) -> None:
        half = self._halves.get()

        def end() -> None:
            try:
                finish()
            finally:
                self._halves.put(half)

        try:
            with torch.inference_mode():
                finish = start(half)
        except BaseException as error:
            finish = partial(_raise, error)
        self._ending.submit(_settle, done, end)

    def _write_in(self, rows: NDArray[np.uint8], target: torch.Tensor, half: int) -> Callable[[], None]:
        landed, there = self._zone.rows(half, *rows.shape)
        region, here = located(rows, self._regions)
        written = self._nic.write(region, here, self._zone.region, there)

        def move() -> None:
            written.result()
            self._zone.flush()
            with self._moving.entered():
                target.copy_(landed)
            self._moving.mark().wait()

        return move

    def _write_out(self, source: torch.Tensor, rows: NDArray[np.uint8], half: int) -> Callable[[], None]:
        leaving, here = self._zone.rows(half, *rows.shape)
        with self._moving.entered():
            leaving.copy_(source)
        self._moving.mark().wait()
        region, there = located(rows, self._regions)
        return self._nic.write(self._zone.region, here, region, there).result


class NicMark:
    """See `Mark`."""

    def __init__(self, given: Sequence[Future[None]]) -> None:
        self._given = given

    def wait(self) -> None:
        """See `Mark`; raises what went wrong on the way, when all of it has ended."""
        wait(self._given)
        for work in self._given:
            work.result()


class _CudaArray:
    """GPU memory that is not torch's own, as torch takes it (CUDA array interface, version 3)."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _parts(rows: int, width: int) -> Iterator[slice]:
    """Rows that a half of the zone holds at once."""
    at_once = LANDING_BYTES // width
    for first in range(0, rows, at_once):
        yield slice(first, min(rows, first + at_once))


def _settle(done: Future[None], work: Callable[[], None]) -> None:
    try:
        with torch.inference_mode():
            work()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)


def _raise(error: BaseException) -> None:
    raise error
