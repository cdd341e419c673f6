"""An ablation's variants in the paper's order: Basic, then one part more at a step (paper 7.4)."""

from __future__ import annotations

from collections.abc import Iterable

from reports.metadata import Variant

ORACLE = "oracle"
"""The policy that by definition loads and transfers nothing (paper, section 7)."""

BASIC = Variant("prefill_only", layerwise=False, scheduling=False)


def differ_in_switches(variants: Iterable[Variant]) -> bool:
    """Whether a run over these is an ablation, more than a comparison of policies."""
    return len({(variant.layerwise, variant.scheduling) for variant in variants}) > 1


def step(variant: Variant) -> tuple[bool, bool, bool, bool]:
    """Sorts an ablation: layerwise prefill, then the second path, then scheduling; the upper bound last."""
    return (
        variant.policy == ORACLE,
        variant.layerwise,
        variant.policy != BASIC.policy,
        variant.scheduling,
    )
