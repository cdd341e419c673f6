"""Kernels, timed one by one on one device (`hosts.bench.kernels` says which)."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from functools import partial

import torch

from hosts.bench.kernels import AttentionPoint, Kernels, Measured, PointTimes, TokenPoint
from hosts.compute.torch.device import find_devices
from hosts.compute.torch.layers import Layers
from hosts.compute.torch.mlp import MixtureOfExperts
from hosts.compute.torch.stopwatch import Stopwatch, Times, Work, open_stopwatch
from hosts.compute.torch.weights import weights
from hosts.content import FINITE
from hosts.facts import host_facts
from workloads.models import find_model

_GEMM_SIZES = {"cpu": (1024,), "cuda": (4096, 8192, 16384)}


def measured(kernels: Kernels) -> Measured:
    """Raises `ComputeError` for a device that cannot be had, ModelError for an unknown model."""
    (device,) = find_devices(kernels.device, (kernels.gpu,) if kernels.gpu else (), 1)
    with torch.inference_mode():
        work = list(_work(kernels, device))
        stopwatch = open_stopwatch(device)
        times = _in_rounds(stopwatch, work, kernels.seconds, kernels.rounds)
        points = [PointTimes(statistics.median(t.device_s), statistics.median(t.asking_s)) for t in times]
        not_captured = [t.not_captured for t in times if t.not_captured]
        return Measured(
            _name(device),
            f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}",
            _gemm_flops_per_s(stopwatch, device, kernels.seconds),
            tuple(points[: len(kernels.attention)]),
            tuple(points[len(kernels.attention) :]),
            len(not_captured),
            not_captured[0] if not_captured else "",
        )


def _work(kernels: Kernels, device: torch.device) -> Sequence[Work]:
    """Of every point, in their order."""
    model = find_model(kernels.model)
    first, *rest = sorted({point.engines for point in kernels.tokens if point.part == "experts"}) or [1]
    layers = Layers(model, first, device)
    further = {
        ("experts", engines): MixtureOfExperts(model.experts, model.hidden, engines, device)
        for engines in rest
        if model.experts is not None
    }
    longest = max(p.requests * (p.cached_tokens + p.new_tokens) for p in kernels.attention)
    widest = max([p.requests * p.new_tokens for p in kernels.attention] + [p.tokens for p in kernels.tokens])
    # Finite numbers of any kind, as runs have (`hosts.content`): zeros draw less power, and clocks rise.
    entry_bytes = model.layer_kv_bytes_per_token
    cache = torch.randint(0, 256, (longest, entry_bytes), dtype=torch.uint8, device=device).bitwise_and_(
        FINITE
    )
    hidden = weights(device, widest, model.hidden)

    def attention(point: AttentionPoint) -> Work:
        each = point.cached_tokens + point.new_tokens
        entries = [(cache[i * each : (i + 1) * each], point.new_tokens) for i in range(point.requests)]
        return partial(layers.kinds[point.kind], hidden[: point.requests * point.new_tokens], entries)

    def of_tokens(point: TokenPoint) -> Work:
        layer = further.get((point.part, point.engines), layers.parts[point.part])
        return partial(layer, hidden[: point.tokens])

    return [*map(attention, kernels.attention), *map(of_tokens, kernels.tokens)]


def _in_rounds(stopwatch: Stopwatch, work: Sequence[Work], seconds: float, rounds: int) -> list[Times]:
    """Of each piece of work, all its runs in all rounds."""
    order, shuffle = list(range(len(work))), random.Random(1).shuffle
    found = [Times() for _ in work]
    for _ in range(rounds):
        shuffle(order)
        for at in order:
            found[at].add(stopwatch.times(work[at], seconds / rounds))
    return found


def _gemm_flops_per_s(stopwatch: Stopwatch, device: torch.device, seconds: float) -> float:
    """The device's best rate over some sizes of square BF16 matrices."""
    best = 0.0
    for size in _GEMM_SIZES[device.type]:
        left, right = weights(device, size, size), weights(device, size, size)
        times = stopwatch.times(partial(torch.mm, left, right), seconds)
        best = max(best, 2 * size**3 / statistics.median(times.device_s))
    return best


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{host_facts()['cpu']}, {torch.get_num_threads()} threads"
    return str(torch.cuda.get_device_name(device))
