"""What each part of the design adds (paper, section 7.4): variants from Basic to all parts, step by step."""

from __future__ import annotations

import msgspec

from reports.bottleneck import highest
from reports.metadata import Variant
from reports.metrics import PolicyMetrics
from reports.statistics import Estimate, mean, speedup
from reports.stored_run import StoredRun
from reports.variants import BASIC

PAPER_REDUCTION = {
    Variant("prefill_only", layerwise=True, scheduling=False): 0.1721,
    Variant("dual_path", layerwise=True, scheduling=False): 0.3819,
    Variant("dual_path", layerwise=True, scheduling=True): 0.4562,
}
"""How far the mean JCT was below Basic's: 660B, 64K, 1024 and 2048 agents."""


class Step(msgspec.Struct, frozen=True):
    """One variant; ``agent_jct_s`` is its mean agent JCT, ``reduction`` how far that is below the first's."""

    name: str
    variant: Variant
    agent_jct_s: Estimate | None
    reduction: Estimate | None
    paper_reduction: float | None
    bound: str


def ablation(run: StoredRun, policies: dict[str, PolicyMetrics]) -> list[Step]:
    """A step a variant; none where all have the same switches."""
    if not run.is_ablation:
        return []
    jct_s = {name: policies[name].agent_jct_mean_s for name in run.variants}
    first = next(iter(run.variants))
    return [
        Step(
            name=name,
            variant=variant,
            agent_jct_s=mean(jct_s[name]),
            reduction=_reduction(jct_s[first], jct_s[name]) if name != first else None,
            paper_reduction=PAPER_REDUCTION.get(variant) if run.variants[first] == BASIC else None,
            bound=bound.text if (bound := highest(policies[name])) else "",
        )
        for name, variant in run.variants.items()
    ]


def _reduction(first_s: list[float], step_s: list[float]) -> Estimate | None:
    """1 - step / first, from the ratio of geometric means and its interval."""
    if not first_s or not step_s:
        return None
    ratio = speedup(first_s, step_s)
    bounds = (None if bound is None else 1 - 1 / bound for bound in (ratio.ci_low, ratio.ci_high))
    return Estimate(1 - 1 / ratio.value, *bounds)
