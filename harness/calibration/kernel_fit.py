"""Times of kernels as a function of their work, fitted to measured points (`hosts.kernel_times`).

Coefficients are never negative, and errors count in proportion: a point that takes a microsecond weighs as
much as one that takes a second (non-negative least squares of predicted / measured - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from scipy.optimize import nnls

from harness.experiment import Residuals
from hosts.bench.kernels import AttentionPoint, PointTimes
from hosts.kernel_times import AttentionTimes, TokenTimes, Work, seconds
from hosts.kernel_work import DecodeWork, PrefillWork, asking_work, decode_work, prefill_work
from workloads.models import Attention

_W = TypeVar("_W", bound=Work)


def residuals(predicted: Sequence[float], measured: Sequence[float]) -> Residuals:
    """Of pairs, at least one."""
    errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return Residuals(points=len(errors), median=float(np.median(errors)), largest=float(errors.max()))


def fit_attention(
    kind: Attention, layers: int, measured: Mapping[AttentionPoint, PointTimes]
) -> AttentionTimes:
    """From points of one kind, of which some prefill and some decode."""
    device_s = [times.device_s for times in measured.values()]
    works = [device_work(kind, point) for point in measured]
    prefill = [(work, s) for work, s in zip(works, device_s, strict=True) if isinstance(work, PrefillWork)]
    decode = [(work, s) for work, s in zip(works, device_s, strict=True) if isinstance(work, DecodeWork)]
    asking = [(asking_work(kind, batch(point)), times.asking_s) for point, times in measured.items()]
    return AttentionTimes(layers, _fitted(prefill), _fitted(decode), _fitted(asking))


def predicted(times: AttentionTimes, kind: Attention, point: AttentionPoint) -> PointTimes:
    """For a point: one layer."""
    work = device_work(kind, point)
    each = times.prefill if isinstance(work, PrefillWork) else times.decode
    return PointTimes(seconds(each, work), seconds(times.asking, asking_work(kind, batch(point))))


def device_work(kind: Attention, point: AttentionPoint) -> PrefillWork | DecodeWork:
    """Of a point."""
    if point.new_tokens == 1:
        return decode_work(kind, [point.cached_tokens] * point.requests)
    return prefill_work(kind, batch(point))


def batch(point: AttentionPoint) -> list[tuple[int, int]]:
    """Its requests' (cached, new) tokens."""
    return [(point.cached_tokens, point.new_tokens)] * point.requests


def token_times(
    layers: int, tokens: Sequence[int], device_s: Sequence[float], asking_s: Sequence[float]
) -> TokenTimes:
    """Through the measured points; more tokens never take less time. Asking takes the points' median."""
    order = np.argsort(tokens)
    rising = np.maximum.accumulate(np.asarray(device_s)[order])
    return TokenTimes(
        layers,
        float(np.median(asking_s)),
        tuple(int(tokens[i]) for i in order),
        tuple(float(s) for s in rising),
    )


def _fitted(points: Sequence[tuple[_W, float]]) -> _W:
    """Seconds that one of each count takes; nothing, where no point takes any."""
    rows = np.array([msgspec.structs.astuple(work) for work, _ in points], dtype=float)
    taken = np.array([s for _, s in points])
    of = type(points[0][0])
    if not taken.any():
        return of(*(0.0 for _ in rows[0]))
    scale = rows.max(axis=0)
    scale[scale == 0] = 1.0  # a feature that this kind has not
    found, _ = nnls(rows / scale / taken[:, None], np.ones(len(points)))
    return of(*(float(x) for x in found / scale))
