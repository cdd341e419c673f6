"""One engine: a device's kernels, KV memory and lanes, and the thread that gives them work.

Asking a GPU for a layer takes about a millisecond of Python: it is done in a thread of the engine's own, so
that the agent's event loop stays free. Others wait for the GPU, one for each lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from hosts.compute.base import ComputeError
from hosts.compute.torch.copying import CopyLanes
from hosts.compute.torch.device import Lane, Mark, TimedMark, bind, open_lane
from hosts.compute.torch.kv import KvMemory
from hosts.compute.torch.layers import Layers

_T = TypeVar("_T")


class Engine:
    """``number`` of its host. Copies to the device, computing and copies back are lanes beside each other."""

    def __init__(self, number: int, layers: Layers, memory: KvMemory, copies: CopyLanes) -> None:
        self.number, self.layers, self.memory = number, layers, memory
        self.copy_in, self.copy_out = copies
        self.computing = open_lane(memory.device)
        self._asking = ThreadPoolExecutor(1, f"engine {number}", initializer=partial(bind, memory.device))
        # One for each lane, whose marks come in order: a long copy keeps nobody from seeing a step's end.
        # They ask the device, too, whether it is there: without theirs they would be on the first GPU.
        self._waiting = {
            lane: ThreadPoolExecutor(1, f"engine {number} waits", initializer=partial(bind, memory.device))
            for lane in self.lanes
        }

    @property
    def lanes(self) -> tuple[Lane, Lane, Lane]:
        """All three."""
        return self.copy_in, self.computing, self.copy_out

    def ask(self, work: Callable[[], _T]) -> Future[_T]:
        """Let the engine's thread give work to the device, in the order of asking."""
        return self._asking.submit(partial(_without_gradients, self.memory.device, work))

    async def wait(self, lane: Lane, mark: Mark) -> None:
        """Until ``lane`` has come to ``mark``."""
        await asyncio.wrap_future(self._waiting[lane].submit(mark.wait))

    async def computed_ns(self, begins: TimedMark, ends: TimedMark) -> int:
        """From one mark of computing to another; until it has come there."""

        def span_ns() -> int:
            ends.wait()
            return ends.ns_since(begins)

        return await asyncio.wrap_future(self._waiting[self.computing].submit(span_ns))

    async def idle(self) -> None:
        """Until nothing that was asked for is under way, on any lane; then what failed on one is raised."""
        marks = await asyncio.wrap_future(self.ask(lambda: [lane.mark() for lane in self.lanes]))
        waits = (self.wait(lane, mark) for lane, mark in zip(self.lanes, marks, strict=True))
        for error in filter(None, await asyncio.gather(*waits, return_exceptions=True)):
            raise error

    def close(self) -> None:
        """End the threads, when what was asked for is done."""
        self._asking.shutdown()
        for waiting in self._waiting.values():
            waiting.shutdown()


async def all_idle(engines: Iterable[Engine]) -> None:
    """Until no engine has anything under way. Who is cancelled meanwhile is so only afterwards: memory that a
    device still works on is nobody's to give away."""
    each = (engine.idle() for engine in engines)
    idle, cancelled = asyncio.gather(*each, return_exceptions=True), False
    while not idle.done():
        try:
            await asyncio.shield(idle)
        except asyncio.CancelledError:
            cancelled = True
    for error in filter(None, idle.result()):
        raise error
    if cancelled:
        raise asyncio.CancelledError


def _without_gradients(device: torch.device, work: Callable[[], _T]) -> _T:
    try:
        with torch.inference_mode():
            return work()
    except torch.OutOfMemoryError as error:
        raise ComputeError(
            f"{device}: out of memory: {str(error).splitlines()[0]}: replay shorter contexts, give the "
            "engine less KV (cluster.replace.gpu_memory_share), or free the GPU (nvidia-smi shows who has it)"
        ) from error
