"""Two policies over the same trace: a metric of each, their ratio, and what that allows to say."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from reports.metrics import PolicyMetrics
from reports.statistics import CONFIDENCE, METHOD, RESOLUTION, Estimate, speedup
from reports.stored_run import StoredRun


class Metric(StrEnum):
    """What is compared, by its name in summary.json: a value a complete repetition, less is better."""

    JCT = "jct_s"
    AGENT_JCT = "agent_jct_mean_s"

    @property
    def words(self) -> str:
        """As in 'faster than Basic by JCT'."""
        return "JCT" if self is Metric.JCT else "mean JCT of an agent"

    def of(self, metrics: PolicyMetrics) -> list[float]:
        """Its values, emulated seconds."""
        return metrics.jct_s if self is Metric.JCT else metrics.agent_jct_mean_s


class Comparison(msgspec.Struct, frozen=True):
    """``speedup`` is of the contender, by ``metric``; absent when either has no complete repetition."""

    metric: Metric
    baseline: str
    contender: str
    speedup: Estimate | None
    significant: bool
    confidence: float
    method: str
    text: str


def metric_of(run: StoredRun) -> Metric:
    """The mean over agents in an ablation, as in the paper (7.4); else the job's JCT.

    The job ends with its longest answer, which no read path shortens: in a short job it hides what every
    other agent gains.
    """
    return Metric.AGENT_JCT if run.is_ablation else Metric.JCT


def compare(
    baseline: str,
    baseline_s: Sequence[float],
    contender: str,
    contender_s: Sequence[float],
    metric: Metric = Metric.JCT,
) -> Comparison:
    """Compare two named policies by their values of ``metric``, in words as well."""
    found = speedup(baseline_s, contender_s) if baseline_s and contender_s else None
    significant = found is not None and _clears_resolution(found)
    return Comparison(
        metric=metric,
        baseline=baseline,
        contender=contender,
        speedup=found,
        significant=significant,
        confidence=CONFIDENCE,
        method=METHOD,
        text=_in_words(baseline, contender, metric.words, found, significant),
    )


def _clears_resolution(found: Estimate) -> bool:
    if found.ci_low is None or found.ci_high is None:
        return False
    return found.ci_low > 1 + RESOLUTION or found.ci_high < 1 / (1 + RESOLUTION)


def _in_words(baseline: str, contender: str, metric: str, found: Estimate | None, significant: bool) -> str:
    if found is None:
        return f"{contender} against {baseline}: no comparison, a policy has no complete repetition"
    if found.ci_low is None or found.ci_high is None:
        return (
            f"{contender} against {baseline}: {found.value:.2f}x by {metric} in one repetition; no interval "
            "and no claim of significance below two repetitions a policy"
        )
    interval = f"{CONFIDENCE * 100:.0f} % CI {found.ci_low:.2f}-{found.ci_high:.2f}"
    if significant and found.value > 1:
        return f"{contender} is {found.value:.2f}x faster than {baseline} by {metric} ({interval})"
    if significant:
        slower = f"{contender} is {1 / found.value:.2f}x slower than {baseline} by {metric}"
        return f"{slower} (speedup {found.value:.2f}x, {interval})"
    fine = f"{found.value:.3f}x, {CONFIDENCE * 100:.0f} % CI {found.ci_low:.3f}-{found.ci_high:.3f}"
    alike = f"no significant difference between {contender} and {baseline} by {metric} ({fine})"
    if found.ci_low <= 1 <= found.ci_high:
        return alike
    return f"{alike}: not clear of the testbed's resolution of {RESOLUTION * 100:.0f} %"
