"""What each part of the design adds (paper, section 7.4): variants from Basic to all parts, step by step."""

from __future__ import annotations

import msgspec

from reports.bottleneck import highest
from reports.latency import agent_jct_s
from reports.metadata import Variant
from reports.metrics import PolicyMetrics
from reports.statistics import Estimate, mean, speedup
from reports.stored_run import ORACLE, StoredRun, of_repetitions

BASIC = Variant("prefill_only", layerwise=False, scheduling=False)
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
    """The variants in the paper's order, by their switches; none where all have the same switches."""
    variants = {name: run.metadata.variants[name] for name in policies if name in run.metadata.variants}
    if len({(variant.layerwise, variant.scheduling) for variant in variants.values()}) < 2:
        return []
    names = sorted(variants, key=lambda name: _order(variants[name]))
    jct_s = {name: _agent_jct_s(run, name) for name in names}
    first = names[0]
    return [
        Step(
            name=name,
            variant=variants[name],
            agent_jct_s=mean(jct_s[name]),
            reduction=_reduction(jct_s[first], jct_s[name]) if name != first else None,
            paper_reduction=PAPER_REDUCTION.get(variants[name]) if variants[first] == BASIC else None,
            bound=bound.text if (bound := highest(policies[name])) else "",
        )
        for name in names
    ]


def _order(variant: Variant) -> tuple[bool, bool, bool, bool]:
    """Layerwise prefill, then the second path, then scheduling; the upper bound last."""
    return (
        variant.policy == ORACLE,
        variant.layerwise,
        variant.policy != BASIC.policy,
        variant.scheduling,
    )


def _agent_jct_s(run: StoredRun, policy: str) -> list[float]:
    """Mean over the agents, a value a complete repetition."""
    turns = of_repetitions(run.turns, policy, run.complete(policy))
    return agent_jct_s(turns).groupby(level="repetition").mean().to_list()


def _reduction(first_s: list[float], step_s: list[float]) -> Estimate | None:
    """1 - step / first, from the ratio of geometric means and its interval."""
    if not first_s or not step_s:
        return None
    ratio = speedup(first_s, step_s)
    bounds = (None if bound is None else 1 - 1 / bound for bound in (ratio.ci_low, ratio.ci_high))
    return Estimate(1 - 1 / ratio.value, *bounds)
