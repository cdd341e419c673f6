"""Compute, measured: a model's kernels on this machine's device, fitted into a hardware profile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec

from harness.calibration.kernel_fit import fit_attention, predicted, residuals, token_times
from harness.calibration.kernel_points import REFERENCE_NEW, ComputePlan, Points
from harness.circumstances import now
from harness.experiment import KernelProfile, Residuals
from hosts.bench.kernels import AttentionPoint, Kernels, Measured, PointTimes, TokenPoint
from hosts.compute import ComputeError
from hosts.kernel_times import KernelTimes, TokenTimes
from workloads.models import Model, prefill_flops


def calibrate_compute(plan: ComputePlan, measure: Callable[[Kernels], Measured]) -> tuple[KernelProfile, ...]:
    """Kernels of the plan's model, for each number of engines that share the experts:

    1. choose the points: a grid to fit, others that the fit never sees, twice, the reference prompt
    2. ``measure`` them: `measured_here`, or on a host (`harness.calibration.on_host`)
    3. fit every part, and compare with what was held out

    Raises `ComputeError` where the device cannot be had.
    """
    points = Points.of(plan)
    return _fitted(plan, points, measure(points.kernels(plan)))


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


def _fitted(plan: ComputePlan, points: Points, found: Measured) -> tuple[KernelProfile, ...]:
    asked = points.kernels(plan).attention
    once, again = len(asked) - len(points.held_out), found.attention[-len(points.held_out) :]
    taken = dict(zip(asked[:once], found.attention[:once], strict=True))
    kinds, measured_at = plan.model.attention, now()
    grid = [*points.prefill, *points.decode]
    attention = tuple(
        fit_attention(kind, layers, {point: taken[point] for point in grid if point.kind == number})
        for number, (layers, kind) in enumerate(kinds)
    )

    def errors(of: Sequence[AttentionPoint], part: Callable[[PointTimes], float]) -> Residuals:
        expected = [part(predicted(attention[p.kind], kinds[p.kind][1], p)) for p in of]
        return residuals(expected, [part(taken[p]) for p in of])

    attention_s = sum(kinds[p.kind][0] * taken[p].device_s for p in points.reference)
    context = points.reference[0].cached_tokens
    reference_flops = prefill_flops(plan.model, context, REFERENCE_NEW)
    asks = any(times.asking_s for times in found.attention)

    def kernels(engines: int) -> KernelProfile:
        tokens = _token_times(plan.model, engines, points.tokens, found.tokens)
        head = tokens.pop("head")
        times = KernelTimes(attention, tuple(tokens.values()), head)
        reference_s = attention_s + times.shared_s(REFERENCE_NEW, 1)
        return KernelProfile(
            measured_at=measured_at,
            command=plan.command,
            device=found.device,
            software=found.software,
            expert_engines=engines,
            gemm_tflop_per_s=found.gemm_flops_per_s / 1e12,
            prefill_context=context,
            prefill_new=REFERENCE_NEW,
            prefill_tflop_per_s=reference_flops / reference_s / 1e12,
            fit=errors(grid, lambda of: of.device_s),
            held_out=errors(points.held_out, lambda of: of.device_s),
            held_out_again=residuals(
                [of.device_s for of in again], [taken[point].device_s for point in points.held_out]
            ),
            held_out_asking=errors(points.held_out, lambda of: of.asking_s) if asks else None,
            not_captured=found.not_captured,
            not_captured_reason=found.reason,
            times=times,
        )

    return tuple(map(kernels, plan.expert_engines))


def _token_times(
    model: Model, engines: int, points: Sequence[TokenPoint], taken: Sequence[PointTimes]
) -> dict[str, TokenTimes]:
    """By part; experts as ``engines`` share them."""
    layers = {"dense": model.dense_layers, "experts": model.layers - model.dense_layers, "head": 1}
    measured: dict[str, list[tuple[int, PointTimes]]] = {}
    for point, times in zip(points, taken, strict=True):
        if point.part != "experts" or point.engines == engines:
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
