"""Times of kernels as a function of their work, fitted to measured points (`hosts.kernel_times`).

Coefficients are never negative, and errors count in proportion: a point that takes a microsecond weighs as
much as one that takes a second (non-negative least squares of predicted / measured - 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from harness.experiment import Residuals
from hosts.bench.kernels import AttentionPoint
from hosts.kernel_times import AttentionTimes, TokenTimes, features
from workloads.models import Attention


def residuals(predicted: Sequence[float], measured: Sequence[float]) -> Residuals:
    """Of pairs, at least one."""
    errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return Residuals(points=len(errors), median=float(np.median(errors)), largest=float(errors.max()))


def fit_attention(
    kind: Attention, layers: int, points: Sequence[AttentionPoint], seconds: Sequence[float]
) -> AttentionTimes:
    """From points of one kind, either of prefill or of decoding."""
    rows = np.array(
        [(1.0, *(p.requests * x for x in features(kind, p.cached_tokens, p.new_tokens))) for p in points]
    )
    taken = np.asarray(seconds)
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0  # a feature that this kind has not
    found, _ = nnls(rows / scale / taken[:, None], np.ones(len(points)))
    return AttentionTimes(layers, *(float(x) for x in found / scale))


def attention_s(times: AttentionTimes, kind: Attention, point: AttentionPoint) -> float:
    """What is predicted for a point: one layer."""
    return times.layer_s + point.requests * times.seconds(kind, point.cached_tokens, point.new_tokens)


def token_times(layers: int, tokens: Sequence[int], seconds: Sequence[float]) -> TokenTimes:
    """Through the measured points; more tokens never take less time."""
    order = np.argsort(tokens)
    rising = np.maximum.accumulate(np.asarray(seconds)[order])
    return TokenTimes(layers, tuple(int(tokens[i]) for i in order), tuple(float(s) for s in rising))
