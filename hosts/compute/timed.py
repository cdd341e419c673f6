"""Timed compute: takes as long as the work would take by the profile, dilated, and computes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType

from hosts.compute.base import CachedKv, Chunk, Decoding
from hosts.compute.prediction import Prediction

_TIMER_SLACK_NS = 500_000


class TimedCompute:
    """See `Compute`."""

    def __init__(self, prediction: Prediction, engines: int, layers: int) -> None:
        self.prediction, self._layers = prediction, layers
        self._copies = [CopyEngine(prediction) for _ in range(engines)]

    def forward(self, engines: range, batches: Sequence[Sequence[Chunk]]) -> TimedForward:
        """See `Compute`. The new KV is made at once: nothing computes it."""
        for chunk in (chunk for batch in batches for chunk in batch):
            chunk.kv.fill_new()
        copied = max(sum(c.kv.copied_tokens for c in batch if c.resident is None) for batch in batches)
        pass_s = self.prediction.forward_s([[chunk.piece for chunk in batch] for batch in batches])
        return TimedForward(self.prediction, self._layers, pass_s, self.prediction.copy_s(copied))

    def decode(self, engines: range) -> TimedDecode:
        """See `Compute`."""
        return TimedDecode(self.prediction)

    async def load(self, engine: int, kv: CachedKv, tokens: int) -> TimedResidence:
        """See `Compute`. The host keeps account of the HBM."""
        await self._copies[engine].copy(kv.copied_tokens)
        return TimedResidence()

    async def close(self) -> None:
        """Nothing to free."""


class TimedResidence:
    """See `ResidentKv`: there is none."""

    def free(self) -> None:
        """Nothing to free."""


class TimedForward:
    """See `Forward`. The copy of a layer hides behind the computing of the one before."""

    def __init__(self, prediction: Prediction, layers: int, pass_s: float, copy_s: float) -> None:
        self.compute_ns = prediction.dilated_ns(pass_s)
        self._layer_ns, self._copy_ns = self.compute_ns // layers, prediction.dilated_ns(copy_s) // layers
        self._clock = StageClock()
        self._copied_at_ns = self._clock.end_at_ns
        self._ends_at_ns: list[int] = []

    async def __aenter__(self) -> TimedForward:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is under way."""

    def begin(self, layer: int, ready_at_ns: int) -> None:
        """See `Forward`."""
        slot_free_at_ns = self._clock.end_at_ns - self._layer_ns
        self._copied_at_ns = max(self._copied_at_ns, slot_free_at_ns) + self._copy_ns
        self._ends_at_ns.append(self._clock.stage(self._layer_ns, max(self._copied_at_ns, ready_at_ns)))

    async def computed(self, layer: int) -> None:
        """See `Forward`."""
        await sleep_until(self._ends_at_ns[layer])


class TimedDecode:
    """See `DecodeSteps`."""

    def __init__(self, prediction: Prediction) -> None:
        self._prediction, self._clock = prediction, StageClock()

    async def step(self, batches: Sequence[Sequence[Decoding]]) -> None:
        """See `DecodeSteps`."""
        step_s = self._prediction.decode_step_s([[r.context_tokens for r in batch] for batch in batches])
        await sleep_until(self._clock.stage(self._prediction.dilated_ns(step_s)))


class StageClock:
    """Stages one after the other on one timeline; begins now.

    The timeline is arithmetic, so timer granularity (epoll wakes up to 1 ms late) never adds up over
    stages: one ends at max(previous end, its data's arrival) + its duration, and tasks sleep only to
    catch up with that moment.
    """

    def __init__(self) -> None:
        self.end_at_ns = time.monotonic_ns()

    def stage(self, duration_ns: int, ready_at_ns: int = 0) -> int:
        """The next stage, whose input arrived at ``ready_at_ns`` (monotonic); the moment it ends."""
        self.end_at_ns = max(self.end_at_ns, ready_at_ns) + duration_ns
        return self.end_at_ns


class CopyEngine:
    """Copies between host memory and one engine's HBM, one after the other at the profile's rate."""

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction
        self._free_at_ns = 0

    async def copy(self, tokens: int) -> None:
        """All layers' KV of ``tokens`` tokens."""
        self._free_at_ns = max(self._free_at_ns, time.monotonic_ns())
        self._free_at_ns += self._prediction.dilated_ns(self._prediction.copy_s(tokens))
        await sleep_until(self._free_at_ns)


async def sleep_until(at_ns: int) -> None:
    """Until a moment of the monotonic clock; if it is closer than a timer is exact, only let others run."""
    remaining_ns = at_ns - time.monotonic_ns()
    await asyncio.sleep(remaining_ns / 1e9 if remaining_ns > _TIMER_SLACK_NS else 0)
