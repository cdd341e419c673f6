"""Compute, measured: a model's kernels on this machine's device, fitted into a hardware profile."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from harness.calibration.kernel_fit import fit_attention, predicted, residuals, token_times
from harness.circumstances import now
from harness.experiment import HardwareProfile, KernelProfile, Residuals
from hosts.bench.kernels import AttentionPoint, Kernels, Measured, PointTimes, TokenPart, TokenPoint
from hosts.compute import ComputeError
from hosts.config import DeviceKind
from hosts.kernel_times import KernelTimes, TokenTimes
from workloads.models import Attention, GroupedQueryAttention, Model, prefill_flops

REFERENCE_CONTEXT, REFERENCE_NEW = 32_768, 429
"""A prompt as the paper's (its mean append over a 32K context), whose rate is reported."""
_HELD_OUT = 12
_LEAST_CONTEXT, _CONTEXTS_GROW = 64, 4
_LEAST_NEW, _NEW_GROWS = 16, 2
_DECODE_REQUESTS = (1, 4, 16, 64)
_MOST_DECODE_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class ComputePlan:
    """What is measured where: contexts to ``longest_context`` and passes to ``most_tokens``, each point for
    ``seconds``. Experts are those of one engine of ``expert_engines``."""

    model: Model
    device: DeviceKind
    gpu: str
    expert_engines: int
    longest_context: int
    most_tokens: int
    seconds: float
    rounds: int
    command: str


def calibrate_compute(
    plan: ComputePlan, profile: HardwareProfile, measure: Callable[[Kernels], Measured]
) -> HardwareProfile:
    """``profile`` with the kernels of the plan's model as they are here:

    1. choose the points: a grid to fit, others that the fit never sees, the reference prompt
    2. ``measure`` them: `measured_here`, or on a host (`harness.calibration.on_host`)
    3. fit every part, and compare with what was held out

    Raises `ComputeError` where the device cannot be had.
    """
    points = _Points.of(plan)
    found = measure(points.kernels(plan))
    kernels = _fitted(plan, points, found)
    return msgspec.structs.replace(profile, kernels={**profile.kernels, plan.model.name: kernels})


def measured_here(kernels: Kernels) -> Measured:
    """By `hosts.bench.kernels`, whose libraries and memory are gone afterwards."""
    argv = [sys.executable, "-m", "hosts.bench.kernels", msgspec.json.encode(kernels).decode()]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=kernels.deadline_s)
    except subprocess.TimeoutExpired as error:
        raise ComputeError(
            f"compute: measuring took more than {kernels.deadline_s:.0f} s and was ended; does the device "
            "hang (nvidia-smi), or is it too slow for --longest-context and --most-tokens?"
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"compute: measuring ended with {done.returncode}"]
        raise ComputeError(said[-1])
    return msgspec.json.decode(done.stdout, type=Measured)


@dataclass(frozen=True, slots=True)
class _Points:
    """Points by what they are for; attention points of all kinds together."""

    prefill: Sequence[AttentionPoint]
    decode: Sequence[AttentionPoint]
    held_out: Sequence[AttentionPoint]
    reference: Sequence[AttentionPoint]
    tokens: Sequence[TokenPoint]

    @classmethod
    def of(cls, plan: ComputePlan) -> _Points:
        kinds = [(number, _contexts(kind, plan)) for number, (_, kind) in enumerate(plan.model.attention)]
        new = list(_growing(_LEAST_NEW, _NEW_GROWS, plan.most_tokens))
        several = [(_LEAST_CONTEXT, new[1], 16), (1024, new[2], 4), (1024, new[0], 16)]
        return cls(
            prefill=[
                AttentionPoint(kind, *rest)
                for kind, contexts in kinds
                for rest in (*((c, n, 1) for c in (0, *contexts) for n in new), *several)
            ],
            decode=[
                AttentionPoint(kind, context, 1, requests)
                for kind, contexts in kinds
                for context in contexts
                for requests in _DECODE_REQUESTS
                if context * requests <= _MOST_DECODE_TOKENS
            ],
            held_out=list(_held_out(plan)),
            reference=[
                AttentionPoint(kind, min(REFERENCE_CONTEXT, plan.longest_context), REFERENCE_NEW)
                for kind, _ in kinds
            ],
            tokens=[
                TokenPoint(part, tokens)
                for part in _token_parts(plan.model)
                for tokens in sorted({*_growing(1, 2, plan.most_tokens), REFERENCE_NEW})
            ],
        )

    def kernels(self, plan: ComputePlan) -> Kernels:
        attention = (*self.prefill, *self.decode, *self.held_out, *self.reference)
        return Kernels(
            plan.model.name,
            plan.device,
            plan.gpu,
            plan.expert_engines,
            attention,
            tuple(self.tokens),
            plan.seconds,
            plan.rounds,
        )


def _growing(first: int, factor: int, last: int) -> Iterator[int]:
    """Geometric from ``first``, and ``last`` itself."""
    while first < last:
        yield first
        first *= factor
    yield last


def _contexts(kind: Attention, plan: ComputePlan) -> list[int]:
    """Ascending; among them one at which attention picks as many keys as it ever does, and one below it."""
    contexts = {*_growing(_LEAST_CONTEXT, _CONTEXTS_GROW, plan.longest_context)}
    if (
        most := kind.window
        if isinstance(kind, GroupedQueryAttention)
        else kind.indexer and kind.indexer.top_k
    ):
        contexts |= {most // _CONTEXTS_GROW, most}
    return sorted(context for context in contexts if context <= plan.longest_context)


def _held_out(plan: ComputePlan) -> Iterator[AttentionPoint]:
    """Prefill and decoding in equal parts, inside the grid: few tokens are as likely as many are."""
    chance = random.Random(plan.model.name)

    def between(least: int, most: int) -> int:
        return round(math.exp(chance.uniform(math.log(least), math.log(most))))

    for kind in range(len(plan.model.attention)):
        for _ in range(_HELD_OUT):
            context = between(_LEAST_CONTEXT, plan.longest_context)
            yield AttentionPoint(kind, context, between(_LEAST_NEW, plan.most_tokens))
            yield AttentionPoint(
                kind, context, 1, between(1, min(_DECODE_REQUESTS[-1], _MOST_DECODE_TOKENS // context))
            )


def _token_parts(model: Model) -> Iterator[TokenPart]:
    if model.dense_layers:
        yield "dense"
    if model.experts is not None:
        yield "experts"
    yield "head"


def _fitted(plan: ComputePlan, points: _Points, found: Measured) -> KernelProfile:
    taken = dict(zip(points.kernels(plan).attention, found.attention, strict=True))
    kinds = plan.model.attention
    grid = [*points.prefill, *points.decode]
    attention = tuple(
        fit_attention(kind, layers, {point: taken[point] for point in grid if point.kind == number})
        for number, (layers, kind) in enumerate(kinds)
    )

    def errors(of: Sequence[AttentionPoint], part: Callable[[PointTimes], float]) -> Residuals:
        expected = [part(predicted(attention[p.kind], kinds[p.kind][1], p)) for p in of]
        return residuals(expected, [part(taken[p]) for p in of])

    tokens = _token_times(plan.model, points.tokens, found.tokens)
    head = tokens.pop("head")
    times = KernelTimes(attention, tuple(tokens.values()), head)
    reference_s = sum(kinds[p.kind][0] * taken[p].device_s for p in points.reference)
    reference_s += times.shared_s(REFERENCE_NEW, 1)
    context = points.reference[0].cached_tokens
    asks = any(times.asking_s for times in found.attention)
    return KernelProfile(
        measured_at=now(),
        command=plan.command,
        device=found.device,
        software=found.software,
        expert_engines=plan.expert_engines,
        gemm_tflop_per_s=found.gemm_flops_per_s / 1e12,
        prefill_context=context,
        prefill_new=REFERENCE_NEW,
        prefill_tflop_per_s=prefill_flops(plan.model, context, REFERENCE_NEW) / reference_s / 1e12,
        fit=errors(grid, lambda of: of.device_s),
        held_out=errors(points.held_out, lambda of: of.device_s),
        held_out_asking=errors(points.held_out, lambda of: of.asking_s) if asks else None,
        not_captured=found.not_captured,
        not_captured_reason=found.reason,
        times=times,
    )


def _token_times(
    model: Model, points: Sequence[TokenPoint], taken: Sequence[PointTimes]
) -> dict[str, TokenTimes]:
    layers = {"dense": model.dense_layers, "experts": model.layers - model.dense_layers, "head": 1}
    measured: dict[str, list[tuple[int, PointTimes]]] = {}
    for point, times in zip(points, taken, strict=True):
        measured.setdefault(point.part, []).append((point.tokens, times))
    return {
        part: token_times(
            layers[part],
            [tokens for tokens, _ in pairs],
            [times.device_s for _, times in pairs],
            [times.asking_s for _, times in pairs],
        )
        for part, pairs in measured.items()
    }
