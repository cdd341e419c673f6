"""Is the contender as much faster as a nightly run expects it to be? Its speedup against a threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

from reports.problem import Problem
from reports.statistics import CONFIDENCE
from reports.summary import Summary


class Speedup(NamedTuple):
    """What a run says of the contender's speedup: the estimate, and the range that it lies in.

    Offline it is a ratio of times and its confidence interval, which is absent with one repetition a policy.
    Online it is a ratio of the agents served within the SLO, between the rates tried; infinite where no rate
    was too high for the contender, or any for the baseline. All are absent where nothing is compared.
    """

    value: float | None
    low: float | None
    high: float | None


def speedup_of(summary: Summary) -> Speedup:
    """The contender's over the baseline."""
    if summary.online:
        served = summary.online
        found = Speedup(served.ratio, served.ratio_low, served.ratio_high)
        compared = any(figure is not None for figure in found)
        return found._replace(high=math.inf) if compared and found.high is None else found
    estimate = summary.comparison.speedup if summary.comparison else None
    return (
        Speedup(estimate.value, estimate.ci_low, estimate.ci_high) if estimate else Speedup(None, None, None)
    )


def regression(summary: Summary, fail_below: float) -> Problem | None:
    """What is wrong where the whole range is below ``fail_below``, or nothing is compared.

    Of one repetition a policy the estimate itself is held against it.
    """
    found = speedup_of(summary)
    upper = found.value if found.high is None else found.high
    if upper is not None and upper >= fail_below:
        return None
    value = "none" if found.value is None else f"{found.value:.3f}x"
    bound = "" if found.high is None else f", at most {found.high:.3f}x"
    confidence = "" if summary.online else f" within the {CONFIDENCE * 100:.0f} % interval"
    return Problem(
        "speedup below the threshold",
        f"summary.json: {'online' if summary.online else 'comparison'}",
        f"{value}{bound}",
        f"{fail_below:g}x or more{confidence}",
        "compare ceilings, storage NICs and versions with those in the report of an earlier run",
    )
