"""Which resource bounded a policy: how busy each was, and what turns waited for before their first token.

Each is judged where it had work to do: storage NICs in the busy window, engines in the active phase.
"""

from __future__ import annotations

from statistics import fmean

import msgspec

from reports.metrics import PolicyMetrics
from reports.storage_nics import SnicMetrics
from reports.units import percent

SATURATED = 0.80
"""Utilization from which a resource is called the bound; between it and 1 lie ramps and imbalance."""

WAITED = 0.50
"""Share of TTFT from which waiting for space is called the bound: most of what a turn waits for."""


class Bound(msgspec.Struct, frozen=True):
    """One resource and its share: of the time that it was busy, or of TTFT that turns waited for it."""

    resource: str
    share: float
    waited: bool = False

    @property
    def saturated(self) -> bool:
        """Whether nothing could be done sooner with this resource as it is."""
        return self.share >= (WAITED if self.waited else SATURATED)

    @property
    def text(self) -> str:
        """As in 'bounded by prefill storage NICs (97 % busy)'."""
        share = f"{percent(self.share, 0)} {'of TTFT' if self.waited else 'busy'}"
        return f"{'bounded by' if self.saturated else 'nothing saturated, at most'} {self.resource} ({share})"


def highest(metrics: PolicyMetrics) -> Bound | None:
    """The resource nearest to bounding a policy; None without a complete repetition.

    Of what is saturated storage NICs go first, then engines, then waits. The bytes that NICs carry are given;
    a forward pass takes whatever prompts have arrived, so engines that are short of them run smaller ones
    back to back. And a turn may wait for a buffer that a saturated NIC fills or a saturated engine empties.
    """
    found = _bounds(metrics)
    saturated = (bound for bound in found if bound.saturated)
    return next(saturated, max(found, key=lambda bound: (not bound.waited, bound.share), default=None))


def bottleneck(metrics: PolicyMetrics) -> str | None:
    """What bounded one policy, in words; None without a complete repetition."""
    bound = highest(metrics)
    if bound is None:
        return None
    nics = [text for role in ("prefill", "decode") if (text := _role_text(metrics, role, bound))]
    if bound.saturated:
        return "; ".join((bound.text, *nics))
    engines = f"no saturated resource (prefill engines {percent(metrics.prefill_engine_busy, 0)} busy)"
    parts_s = {part: value for part, value in metrics.ttft_breakdown_s.items() if value > 0}
    if not parts_s:
        return engines
    part = max(parts_s, key=lambda name: parts_s[name])
    share = percent(parts_s[part] / sum(parts_s.values()), 0)
    return "; ".join((engines, f"most of TTFT is {part.replace('_', ' ')} ({share})", *nics))


def _bounds(metrics: PolicyMetrics) -> list[Bound]:
    """Storage NICs, engines, waits; of each the higher share first."""
    if not metrics.jct_s:
        return []
    roles = {role: _role_use(metrics, role) for role in ("prefill", "decode")}
    nics = [Bound(f"{role} storage NICs", use) for role, use in roles.items() if use is not None]
    busy = metrics.prefill_engine_busy
    engines = [] if busy is None else [Bound("prefill engines", busy)]
    waits: list[Bound] = []
    ttft_s = metrics.ttft_s["mean"]
    if ttft_s:
        waits_s = metrics.ttft_breakdown_s
        waits.append(Bound("PE and DE buffers", waits_s["allocation"] / ttft_s, waited=True))
        waits.append(Bound("prefill HBM", waits_s["hbm_wait"] / ttft_s, waited=True))
    kinds = (nics, engines, waits)
    return [bound for kind in kinds for bound in sorted(kind, key=lambda bound: -bound.share)]


def _of_role(metrics: PolicyMetrics, role: str) -> list[SnicMetrics]:
    return [nic for nic in metrics.storage_nic.values() if nic.role == role]


def _role_use(metrics: PolicyMetrics, role: str) -> float | None:
    uses = [n.busy_utilization for n in _of_role(metrics, role) if n.busy_utilization is not None]
    return fmean(uses) if uses else None


def _role_text(metrics: PolicyMetrics, role: str, named: Bound) -> str:
    """A role's storage NICs in words; '' where they were not used, or are ``named`` already."""
    use = _role_use(metrics, role)
    resource = f"{role} storage NICs"
    if use is None or (named.saturated and named.resource == resource):
        return ""
    return f"{resource} ran at {percent(use, 0)} of their measured ceiling{_idle(_of_role(metrics, role))}"


def _idle(nics: list[SnicMetrics]) -> str:
    if any(nic.expected_busy for nic in nics):
        return ""
    return " (idle but for persisted blocks)" if any(nic.bytes for nic in nics) else " (idle)"
