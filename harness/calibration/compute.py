"""Compute, measured: a model's kernels on this machine's device, fitted into a hardware profile."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from harness.calibration.kernel_fit import attention_s, fit_attention, residuals, token_times
from harness.circumstances import now
from harness.experiment import HardwareProfile, KernelProfile, Residuals
from hosts.bench.kernels import AttentionPoint, Kernels, Measured, TokenPart, TokenPoint
from hosts.compute import ComputeError
from hosts.config import DeviceKind
from hosts.kernel_times import AttentionTimes, KernelTimes, TokenTimes
from workloads.models import Model, prefill_flops

REFERENCE_CONTEXT, REFERENCE_NEW = 32_768, 429
"""A prompt as the paper's (its mean append over a 32K context), whose rate is reported."""
_HELD_OUT = 12
_FEW_CONTEXTS, _CONTEXTS_GROW = 1024, 4
_FEW_NEW, _NEW_GROWS = 16, 4
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
        kinds = range(len(plan.model.attention))
        contexts = [0, *_growing(_FEW_CONTEXTS, _CONTEXTS_GROW, plan.longest_context)]
        new = list(_growing(_FEW_NEW, _NEW_GROWS, plan.most_tokens))
        few = [(contexts[1], new[1], 4), (contexts[1], new[0], 16)]
        return cls(
            prefill=[
                AttentionPoint(kind, *rest)
                for kind in kinds
                for rest in (*((c, n, 1) for c in contexts for n in new), *few)
            ],
            decode=[
                AttentionPoint(kind, context, 1, requests)
                for kind in kinds
                for context in contexts[1:]
                for requests in _DECODE_REQUESTS
                if context * requests <= _MOST_DECODE_TOKENS
            ],
            held_out=list(_held_out(plan)),
            reference=[
                AttentionPoint(kind, min(REFERENCE_CONTEXT, plan.longest_context), REFERENCE_NEW)
                for kind in kinds
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


def _held_out(plan: ComputePlan) -> Iterator[AttentionPoint]:
    """Prefill and decoding in equal parts, anywhere inside the grid."""
    chance = random.Random(plan.model.name)
    for kind in range(len(plan.model.attention)):
        for _ in range(_HELD_OUT):
            context = chance.randint(_FEW_CONTEXTS, plan.longest_context)
            yield AttentionPoint(kind, context, chance.randint(_FEW_NEW, plan.most_tokens))
            requests = chance.randint(1, min(_DECODE_REQUESTS[-1], _MOST_DECODE_TOKENS // context))
            yield AttentionPoint(kind, context, 1, requests)


def _token_parts(model: Model) -> Iterator[TokenPart]:
    if model.dense_layers:
        yield "dense"
    if model.experts is not None:
        yield "experts"
    yield "head"


def _fitted(plan: ComputePlan, points: _Points, found: Measured) -> KernelProfile:
    asked = points.kernels(plan)
    seconds = dict(zip(asked.attention, found.attention_s, strict=True))
    kinds = plan.model.attention

    def fitted(of: Sequence[AttentionPoint]) -> tuple[AttentionTimes, ...]:
        result = []
        for number, (layers, kind) in enumerate(kinds):
            own = [point for point in of if point.kind == number]
            result.append(fit_attention(kind, layers, own, [seconds[point] for point in own]))
        return tuple(result)

    prefill, decode = fitted(points.prefill), fitted(points.decode)

    def errors(of: Sequence[AttentionPoint]) -> Residuals:
        predicted = [
            attention_s((decode if p.new_tokens == 1 else prefill)[p.kind], kinds[p.kind][1], p) for p in of
        ]
        return residuals(predicted, [seconds[point] for point in of])

    tokens = _token_times(plan.model, points.tokens, found.tokens_s)
    head = tokens.pop("head")
    times = KernelTimes(prefill, decode, tuple(tokens.values()), head)
    reference_s = sum(kinds[p.kind][0] * seconds[p] for p in points.reference)
    reference_s += times.shared_s(REFERENCE_NEW, 1)
    context = points.reference[0].cached_tokens
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
        fit=errors([*points.prefill, *points.decode]),
        held_out=errors(points.held_out),
        times=times,
    )


def _token_times(
    model: Model, points: Sequence[TokenPoint], seconds: Sequence[float]
) -> dict[str, TokenTimes]:
    layers = {"dense": model.dense_layers, "experts": model.layers - model.dense_layers, "head": 1}
    measured: dict[str, list[tuple[int, float]]] = {}
    for point, taken in zip(points, seconds, strict=True):
        measured.setdefault(point.part, []).append((point.tokens, taken))
    return {
        part: token_times(layers[part], [t for t, _ in pairs], [s for _, s in pairs])
        for part, pairs in measured.items()
    }
