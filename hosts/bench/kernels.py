"""What a model's kernels take on this host's device, point by point: the raw data of a compute calibration.

    python -m hosts.bench.kernels KERNELS_AS_JSON

Every point is measured in several rounds, each in an order of its own, so that a clock that drifts or
throttles shows in all points alike.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import msgspec

from hosts.compute import ComputeError
from hosts.compute.torch.importing import require_torch
from hosts.config import DeviceKind

TokenPart = Literal["dense", "experts", "head"]


class AttentionPoint(msgspec.Struct, frozen=True):
    """A layer of the model's attention kind ``kind`` for ``requests`` alike; 1 new token is decoding."""

    kind: int
    cached_tokens: int
    new_tokens: int
    requests: int = 1


class TokenPoint(msgspec.Struct, frozen=True):
    """A layer's MLP (``part`` dense or experts) or the head, for ``tokens`` tokens."""

    part: TokenPart
    tokens: int


class Kernels(msgspec.Struct, frozen=True):
    """What is measured: points of ``model``, each for ``seconds``, in ``rounds``. ``python`` as in
    `ComputeConfig`."""

    model: str
    device: DeviceKind
    gpu: str
    expert_engines: int
    attention: tuple[AttentionPoint, ...]
    tokens: tuple[TokenPoint, ...]
    seconds: float
    rounds: int
    python: str = ""


class Measured(msgspec.Struct, frozen=True):
    """Median seconds of every point, in their order, and what they were measured on; ``gemm_flops_per_s``:
    the best rate of a large BF16 matrix product beside them."""

    device: str
    software: str
    gemm_flops_per_s: float
    attention_s: tuple[float, ...]
    tokens_s: tuple[float, ...]


def measure(kernels: Kernels) -> Measured:
    """Raises `ComputeError`, ModelError."""
    require_torch(kernels.python)
    import torch

    from hosts.compute.torch.attention import attention_layer
    from hosts.compute.torch.device import find_devices
    from hosts.compute.torch.mlp import Dense, Head, MixtureOfExperts
    from hosts.compute.torch.weights import weights
    from workloads.models import find_model

    model = find_model(kernels.model)
    (device,) = find_devices(kernels.device, (kernels.gpu,) if kernels.gpu else (), 1)
    entry_bytes = model.layer_kv_bytes_per_token
    longest = max(p.requests * (p.cached_tokens + p.new_tokens) for p in kernels.attention)
    widest = max([p.requests * p.new_tokens for p in kernels.attention] + [p.tokens for p in kernels.tokens])
    with torch.inference_mode():
        # Any bytes, as runs have: zeros draw less power, and clocks rise.
        cache = torch.randint(0, 256, (longest, entry_bytes), dtype=torch.uint8, device=device)
        hidden = weights(device, widest, model.hidden)
        kinds = [attention_layer(kind, model.hidden, device) for _, kind in model.attention]
        parts: dict[str, Callable[[torch.Tensor], object]] = {
            "head": Head(model.hidden, model.vocabulary, device)
        }
        if model.dense_layers:
            parts["dense"] = Dense(model.hidden, model.dense_intermediate, device)
        if model.experts is not None:
            parts["experts"] = MixtureOfExperts(model.experts, model.hidden, kernels.expert_engines, device)

        def attention(point: AttentionPoint) -> Callable[[], object]:
            each = point.cached_tokens + point.new_tokens
            entries = [(cache[i * each : (i + 1) * each], point.new_tokens) for i in range(point.requests)]
            tokens = hidden[: point.requests * point.new_tokens]
            return lambda: kinds[point.kind](tokens, entries)

        def of_tokens(point: TokenPoint) -> Callable[[], object]:
            return lambda: parts[point.part](hidden[: point.tokens])

        work = [attention(point) for point in kernels.attention] + [of_tokens(p) for p in kernels.tokens]
        seconds = _medians(device, work, kernels.seconds, kernels.rounds)
        attention_s, tokens_s = seconds[: len(kernels.attention)], seconds[len(kernels.attention) :]
        return Measured(
            _name(device),
            f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}",
            _gemm_flops_per_s(device, kernels.seconds),
            attention_s,
            tokens_s,
        )


def _medians(
    device: object, work: Sequence[Callable[[], object]], seconds: float, rounds: int
) -> tuple[float, ...]:
    """Of each piece of work, over all its runs in all rounds."""
    order, shuffle = list(range(len(work))), random.Random(1).shuffle
    found: list[list[float]] = [[] for _ in work]
    for _ in range(rounds):
        shuffle(order)
        for at in order:
            found[at] += _times(device, work[at], seconds / rounds)
    return tuple(map(statistics.median, found))


def _times(device: object, work: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each run, at least three, after one that warms up.

    A run's time is from when the device began it until it was done. So that a GPU never waits to be asked,
    several runs are asked for in advance.
    """
    from hosts.compute.torch.device import open_lane

    lane = open_lane(device)
    with lane.entered():
        work()
        lane.mark().wait()
        times: list[float] = []
        ends_at = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < ends_at:
            marks = [lane.mark()]
            for _ in range(4):
                work()
                marks.append(lane.mark())
            marks[-1].wait()
            times += [after.ns_since(before) / 1e9 for before, after in pairwise(marks)]
    return times


def _gemm_flops_per_s(device: object, seconds: float) -> float:
    """The device's best rate over some sizes of square BF16 matrices."""
    import torch

    from hosts.compute.torch.weights import weights

    best = 0.0
    for size in (1024,) if torch.device(device).type == "cpu" else (4096, 8192, 16384):
        left, right = weights(device, size, size), weights(device, size, size)
        times = _times(device, partial(torch.mm, left, right), seconds)
        best = max(best, 2 * size**3 / statistics.median(times))
    return best


def _name(device: object) -> str:
    import torch

    from hosts.facts import host_facts

    if torch.device(device).type == "cpu":
        return f"{host_facts()['cpu']}, {torch.get_num_threads()} threads"
    return str(torch.cuda.get_device_name(device))


if __name__ == "__main__":
    try:
        found = measure(msgspec.json.decode(sys.argv[1], type=Kernels))
    except ComputeError as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
