"""Kernels, timed one by one on one device (`hosts.bench.kernels` says which)."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch

from hosts.bench.kernels import AttentionPoint, Kernels, Measured, TokenPoint
from hosts.compute.torch.device import Lane, find_devices, open_lane
from hosts.compute.torch.layers import Layers
from hosts.compute.torch.weights import weights
from hosts.facts import host_facts
from workloads.models import find_model

_AT_ONCE = 4
_GEMM_SIZES = {"cpu": (1024,), "cuda": (4096, 8192, 16384)}
Work = Callable[[], object]


def measured(kernels: Kernels) -> Measured:
    """Raises `ComputeError` for a device that cannot be had, ModelError for an unknown model."""
    (device,) = find_devices(kernels.device, (kernels.gpu,) if kernels.gpu else (), 1)
    with torch.inference_mode():
        work = list(_work(kernels, device))
        lane = open_lane(device)
        seconds = _medians(lane, work, kernels.seconds, kernels.rounds)
        return Measured(
            _name(device),
            f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}",
            _gemm_flops_per_s(lane, device, kernels.seconds),
            seconds[: len(kernels.attention)],
            seconds[len(kernels.attention) :],
        )


def _work(kernels: Kernels, device: torch.device) -> Sequence[Work]:
    """Of every point, in their order."""
    model = find_model(kernels.model)
    layers = Layers(model, kernels.expert_engines, device)
    longest = max(p.requests * (p.cached_tokens + p.new_tokens) for p in kernels.attention)
    widest = max([p.requests * p.new_tokens for p in kernels.attention] + [p.tokens for p in kernels.tokens])
    # Any bytes, as runs have: zeros draw less power, and clocks rise.
    entry_bytes = model.layer_kv_bytes_per_token
    cache = torch.randint(0, 256, (longest, entry_bytes), dtype=torch.uint8, device=device)
    hidden = weights(device, widest, model.hidden)

    def attention(point: AttentionPoint) -> Work:
        each = point.cached_tokens + point.new_tokens
        entries = [(cache[i * each : (i + 1) * each], point.new_tokens) for i in range(point.requests)]
        return partial(layers.kinds[point.kind], hidden[: point.requests * point.new_tokens], entries)

    def of_tokens(point: TokenPoint) -> Work:
        return partial(layers.parts[point.part], hidden[: point.tokens])

    return [*map(attention, kernels.attention), *map(of_tokens, kernels.tokens)]


def _medians(lane: Lane, work: Sequence[Work], seconds: float, rounds: int) -> tuple[float, ...]:
    """Of each piece of work, over all its runs in all rounds."""
    order, shuffle = list(range(len(work))), random.Random(1).shuffle
    found: list[list[float]] = [[] for _ in work]
    for _ in range(rounds):
        shuffle(order)
        for at in order:
            found[at] += _times(lane, work[at], seconds / rounds)
    return tuple(map(statistics.median, found))


def _times(lane: Lane, work: Work, seconds: float) -> list[float]:
    """Seconds of each run, some at a time, after one that warms up.

    A run's time is from the end of the one before to its own, on the device: what it computes or, where that
    takes longer, what asking for it takes.
    """
    with lane.entered():
        work()
        lane.mark().wait()
        times: list[float] = []
        ends_at = time.perf_counter() + seconds
        while not times or time.perf_counter() < ends_at:
            marks = [lane.mark()]
            for _ in range(_AT_ONCE):
                work()
                marks.append(lane.mark())
            marks[-1].wait()
            times += [after.ns_since(before) / 1e9 for before, after in pairwise(marks)]
    return times


def _gemm_flops_per_s(lane: Lane, device: torch.device, seconds: float) -> float:
    """The device's best rate over some sizes of square BF16 matrices."""
    best = 0.0
    for size in _GEMM_SIZES[device.type]:
        with lane.entered():
            left, right = weights(device, size, size), weights(device, size, size)
        times = _times(lane, partial(torch.mm, left, right), seconds)
        best = max(best, 2 * size**3 / statistics.median(times))
    return best


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{host_facts()['cpu']}, {torch.get_num_threads()} threads"
    return str(torch.cuda.get_device_name(device))
