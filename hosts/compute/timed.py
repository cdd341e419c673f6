"""Timed compute: FLOPs of the model over the effective rate of the profile's GPU, dilated.

An engine's timeline is arithmetic, so timer granularity (epoll wakes up to 1 ms late) never adds
up over layers: a layer ends at max(previous end, its data's arrival) + its duration, and the task
sleeps only to catch up with that moment.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from workloads.models import Model, prefill_flops

_TIMER_SLACK_NS = 500_000


@dataclass(frozen=True, slots=True)
class TimedCompute:
    """``gpu_flops``: effective FLOP/s of one engine; ``time_dilation``: emulated over real time."""

    model: Model
    gpu_flops: float
    decode_step_s: float
    time_dilation: float

    def prefill(self, context_tokens: int, new_tokens: int) -> TimedPrefill:
        """The forward pass of ``new_tokens`` over ``context_tokens`` cached ones, layer by layer."""
        seconds = prefill_flops(self.model, context_tokens, new_tokens) / self.gpu_flops * self.time_dilation
        return TimedPrefill(layer_ns=round(seconds * 1e9 / self.model.layers))

    async def decode(self, steps: int, from_ns: int) -> None:
        """``steps`` decode steps, the first beginning at ``from_ns`` (monotonic)."""
        await _sleep_until(from_ns + round(steps * self.decode_step_s * self.time_dilation * 1e9))


class TimedPrefill:
    """One prefill on one engine; begins now."""

    def __init__(self, layer_ns: int) -> None:
        self.layer_ns = layer_ns
        self.compute_ns = 0
        self.end_at_ns = time.monotonic_ns()

    async def layer(self, ready_at_ns: int = 0) -> None:
        """Compute the next layer, whose hit KV arrived at ``ready_at_ns`` (monotonic; 0: long ago)."""
        self.end_at_ns = max(self.end_at_ns, ready_at_ns) + self.layer_ns
        self.compute_ns += self.layer_ns
        await _sleep_until(self.end_at_ns)


async def _sleep_until(at_ns: int) -> None:
    remaining_ns = at_ns - time.monotonic_ns()
    if remaining_ns > _TIMER_SLACK_NS:
        await asyncio.sleep(remaining_ns / 1e9)
