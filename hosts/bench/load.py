"""A closed loop: so many operations outstanding at once, for a while, and what that gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import numpy as np


class Observed(msgspec.Struct, frozen=True):
    """What was completed between the end of the warm-up and the end.

    ``cpu_s`` is of all processes involved; latencies are from the call to the completion of one operation.
    """

    seconds: float
    operations: int
    bytes: int
    latency_s_p50: float
    latency_s_p99: float
    cpu_s: float


async def closed_loop(
    operation: Callable[[int], Awaitable[None]],
    depth: int,
    operation_bytes: int,
    seconds: float,
    warm_up_s: float,
    cpu_clock_s: Callable[[], float] = time.process_time,
    cool_down_s: float = 0.0,
) -> Observed:
    """``operation(worker)`` again and again by ``depth`` workers, each waiting for its own, for a warm-up,
    the ``seconds`` that count and a cool-down. What fails first ends them all, and is raised."""
    began_at = time.monotonic()
    counts_from, counts_until = began_at + warm_up_s, began_at + warm_up_s + seconds
    ends_at = counts_until + cool_down_s
    cpu_at: list[float] = []
    latencies: list[float] = []

    async def work(worker: int) -> None:
        while (start_at := time.monotonic()) < ends_at:
            if not cpu_at and start_at >= counts_from:
                cpu_at.append(cpu_clock_s())
            await operation(worker)
            end_at = time.monotonic()
            if counts_from <= end_at <= counts_until:
                latencies.append(end_at - start_at)

    try:
        async with asyncio.TaskGroup() as workers:
            for worker in range(depth):
                workers.create_task(work(worker))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (float("nan"),) * 2
    cpu_s = cpu_clock_s() - cpu_at[0] if cpu_at else 0.0
    return Observed(seconds, len(latencies), len(latencies) * operation_bytes, float(p50), float(p99), cpu_s)
