"""Ratios and means of a handful of repetitions, and percentiles that the sample can carry.

Why Welch on logarithms, not pairs: a speedup is a ratio, so its errors multiply and the logarithm of time is
the scale on which swapping baseline and contender only flips the sign. Repetitions run A B B A, which cancels
a linear drift out of the difference of means already; pairing neighbours as well would halve the few degrees
of freedom there are (two repetitions a policy: one instead of about two) for a correlation that an idle
machine does not show. Drift that does occur widens the interval: the error is on the cautious side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy import stats

CONFIDENCE = 0.95

RESOLUTION = 0.02
"""Relative difference below which the testbed does not tell two policies apart.

Repetitions of one emulated run share its trace, ceilings and scale model, so their spread understates how
far two runs of the same thing differ; an interval that reaches within this margin of 1 is no significant
difference.
"""


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its two-sided interval; the bounds are absent below two repetitions."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None


METHOD = "ratio of geometric means over repetitions, Welch t interval on logarithms"


def speedup(
    baseline_s: Sequence[float], contender_s: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate:
    """Geometric mean time of the baseline over the contender's, with a two-sided Welch interval.

    Takes positive times in any one unit, a value a repetition, at least one of each. Welch (1947),
    Biometrika 34; degrees of freedom by Satterthwaite.
    """
    if not baseline_s or not contender_s or min(*baseline_s, *contender_s, math.inf) <= 0:
        raise ValueError(
            f"expected positive times of both policies, found {baseline_s!r} and {contender_s!r}"
        )
    base, cont = np.log(np.asarray(baseline_s, float)), np.log(np.asarray(contender_s, float))
    difference = float(base.mean() - cont.mean())
    if min(base.size, cont.size) < 2:
        return Estimate(math.exp(difference))
    base_error, cont_error = base.var(ddof=1) / base.size, cont.var(ddof=1) / cont.size
    variance = float(base_error + cont_error)
    half_width = 0.0
    if variance > 0:
        # Shares first: squares of tiny variances would underflow.
        share = base_error / variance
        freedom = 1 / (share**2 / (base.size - 1) + (1 - share) ** 2 / (cont.size - 1))
        half_width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
    return Estimate(
        value=math.exp(difference),
        ci_low=math.exp(difference - half_width),
        ci_high=math.exp(difference + half_width),
    )


def mean(samples: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Arithmetic mean of one value a repetition, with Student's t interval; None without a value."""
    if not samples:
        return None
    value = float(np.mean(samples))
    if len(samples) < 2:
        return Estimate(value)
    error = float(np.std(samples, ddof=1)) / math.sqrt(len(samples))
    half_width = float(stats.t.ppf((1 + confidence) / 2, len(samples) - 1)) * error
    return Estimate(value, value - half_width, value + half_width)


def percentiles(samples: Sequence[float], wanted: Sequence[int] = (50, 90, 99)) -> dict[str, float | None]:
    """``{"p50": ...}`` in the samples' unit; None below ``100 / (100 - p)`` samples."""
    return {
        f"p{p}": float(np.percentile(samples, p)) if len(samples) * (100 - p) >= 100 else None for p in wanted
    }


def distribution(samples: Sequence[float]) -> dict[str, float | None]:
    """``{"p50": ..., "p90": ..., "p99": ..., "mean": ...}`` as far as the sample goes."""
    return percentiles(samples) | {"mean": float(np.mean(samples)) if len(samples) else None}


def coefficient_of_variation(samples: Sequence[float]) -> float | None:
    """Sample standard deviation over mean; None below two samples."""
    if len(samples) < 2:
        return None
    return float(np.std(samples, ddof=1) / np.mean(samples))
