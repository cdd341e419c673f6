"""``dualpath bench copies``: a layer between host memory and a GPU, a copy a block beside all in one call."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import msgspec

from harness.bench.contest import in_turn
from harness.bench.crossover import Crossover, crossover
from hosts.bench.device_copies import CopyTimes, Layer, LayerCopies, Way
from hosts.cuda.copies import Direction, batch_missing
from hosts.cuda.driver import Gpu


class CopiesCase(msgspec.Struct, frozen=True):
    """A layer, and every way's rounds in the order of the rounds."""

    direction: Direction
    layer: Layer
    rounds: dict[Way, list[CopyTimes]]

    def bytes_per_s(self, way: Way) -> float:
        """By the device's time, the median of the rounds."""
        return self.layer.nbytes / statistics.median(times.device_s for times in self.rounds[way])

    def ratio(self, way: Way, other: Way) -> float:
        """Rate of ``way`` over that of ``other``: the median of the rounds' own ratios."""
        pairs = zip(self.rounds[way], self.rounds[other], strict=True)
        return statistics.median(its.device_s / mine.device_s for mine, its in pairs)

    def submit_us_per_block(self, way: Way) -> float:
        """Microseconds in which this process does nothing but submit, over all blocks."""
        return statistics.median(times.submit_s for times in self.rounds[way]) * 1e6 / self.layer.blocks


class CopiesReport(msgspec.Struct, frozen=True):
    """All cases, block sizes ascending, and the crossover from ``each`` to ``whole`` of each direction.

    ``batch_missing`` is why there is no such way; empty where there is.
    """

    gpu: str
    cuda_driver: str
    batch_missing: str
    cases: list[CopiesCase]
    crossovers: dict[Direction, Crossover]


def bench_copies(
    ordinal: int, directions: Sequence[Direction], layers: Sequence[Layer], rounds: int, seconds: float
) -> CopiesReport:
    """Verify and then time every way, in turn, for each direction and layer."""
    with closing(Gpu(ordinal)) as gpu, gpu.current():
        cases = [
            _case(gpu, direction, layer, rounds, seconds)
            for direction in directions
            for layer in sorted(set(layers), key=lambda layer: layer.block_bytes)
        ]
        return CopiesReport(gpu.name, gpu.driver.version, batch_missing(), cases, crossovers(cases))


def crossovers(cases: Sequence[CopiesCase]) -> dict[Direction, Crossover]:
    """Of each direction in ``cases``."""
    shares: dict[Direction, dict[int, float]] = {}
    for case in cases:
        of_direction = shares.setdefault(case.direction, {})
        of_direction[case.layer.block_bytes] = case.ratio("each", "whole")
    return {direction: crossover(by_size) for direction, by_size in shares.items()}


def _case(gpu: Gpu, direction: Direction, layer: Layer, rounds: int, seconds: float) -> CopiesCase:
    with closing(LayerCopies(gpu, layer, direction)) as copies:
        copies.verify()
        tools: dict[Way, Callable[[], CopyTimes]] = {
            way: partial(copies.time, way, seconds) for way in copies.ways
        }
        return CopiesCase(direction, layer, in_turn(tools, rounds))
