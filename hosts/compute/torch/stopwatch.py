"""How long a device takes for a piece of work, and how long asking for it takes.

A GPU is asked for work by a thread that goes on while it computes, so there are two times, and the longer one
is what a pass takes. The CPU computes in the thread that asks: asking takes no time of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import torch

_WARM_UPS = 2
_AT_ONCE = 5
_LEAST_FLUSHED_BYTES = 256 * 1024 * 1024
Work = Callable[[], object]


@dataclass(slots=True)
class Times:
    """Seconds of each run on the device, and of each time it was asked for; ``not_captured``: why the device
    would not record the work. Then a run on the device is one that is asked for: the longer of both."""

    device_s: list[float] = field(default_factory=list)
    asking_s: list[float] = field(default_factory=list)
    not_captured: str = ""

    def add(self, more: Times) -> None:
        """Of the same work."""
        self.device_s += more.device_s
        self.asking_s += more.asking_s
        self.not_captured = self.not_captured or more.not_captured


class Stopwatch(Protocol):
    """Times work on one device."""

    def times(self, work: Work, seconds: float) -> Times:
        """Of some runs, for about ``seconds``, after others that warm up."""


def open_stopwatch(device: torch.device) -> Stopwatch:
    """Of ``device``."""
    return CudaStopwatch(device) if device.type == "cuda" else CpuStopwatch()


class CpuStopwatch:
    """See `Stopwatch`."""

    def times(self, work: Work, seconds: float) -> Times:
        """See `Stopwatch`."""
        work()
        taken = [_elapsed(work) for _ in _for(seconds)]
        return Times(taken, [0.0] * len(taken))


class CudaStopwatch:
    """See `Stopwatch`. The device replays work that it has captured in a graph, so that no asking is in its
    time.

    Before each run its L2 cache is overwritten. Layers of a kind share their weights here, but between two of
    them a run has computed other parts, whose weights and KV are more than the cache holds.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        flushed_bytes = max(_LEAST_FLUSHED_BYTES, 2 * l2_bytes)
        self._flushed = torch.empty(flushed_bytes, dtype=torch.uint8, device=device)
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def times(self, work: Work, seconds: float) -> Times:
        """See `Stopwatch`."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):  # what is made on first use cannot be captured
                work()
            asking_s = [self._asking_s(work) for _ in _for(seconds / 2)]
            with self._captured(work) as (run, not_captured):
                device_s = [taken for _ in _for(seconds / 2) for taken in self._device_s(run)]
        return Times(device_s, asking_s, not_captured)

    def _asking_s(self, work: Work) -> float:
        """Of a device with nothing to do, whose queue is empty."""
        self._stream.synchronize()
        return _elapsed(work)

    @contextmanager
    def _captured(self, work: Work) -> Iterator[tuple[Work, str]]:
        """What runs ``work`` without asking for it; or ``work`` itself, and why."""
        graph, reason = torch.cuda.CUDAGraph(), ""
        try:
            try:
                with torch.cuda.graph(graph, stream=self._stream):
                    work()
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
            yield (work if reason else graph.replay), reason
        finally:
            self._stream.synchronize()
            graph.reset()

    def _device_s(self, run: Work) -> list[float]:
        """Of some runs, asked for in one go. The first is left out: the device may have waited for it."""
        marks = []
        for _ in range(_AT_ONCE):
            self._flushed.zero_()
            begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begins.record(self._stream)
            run()
            ends.record(self._stream)
            marks.append((begins, ends))
        self._stream.synchronize()
        return [begins.elapsed_time(ends) / 1e3 for begins, ends in marks[1:]]


def _elapsed(work: Work) -> float:
    began_at = time.perf_counter()
    work()
    return time.perf_counter() - began_at


def _for(seconds: float) -> Iterator[int]:
    """Once, and again until ``seconds`` are over."""
    ends_at = time.perf_counter() + seconds
    for number in count():
        yield number
        if time.perf_counter() >= ends_at:
            return
