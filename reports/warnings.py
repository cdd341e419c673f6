"""What leaves a run valid and a careful reader should know, a line each."""

from __future__ import annotations

from collections.abc import Iterator

from reports.attempts import attempt_warnings
from reports.calibration import calibration_warnings
from reports.comparison import metric_of
from reports.compute_check import compute_inapplicable
from reports.counter_check import inapplicable
from reports.emulation_gates import emulation_warnings
from reports.evidence import Evidence
from reports.nic_tables import link_errors
from reports.statistics import coefficient_of_variation
from reports.throttling import gpu_warnings
from reports.units import percent

BUSY_UTILIZATION = 0.92
JCT_CV = 0.05


def warnings(evidence: Evidence) -> list[str]:
    """All of them; first what the run itself brought along."""
    metadata = evidence.run.metadata
    return [
        *metadata.warnings,
        *attempt_warnings(metadata),
        *calibration_warnings(metadata),
        *_not_checked(evidence),
        *link_errors(evidence.run),
        *gpu_warnings(evidence),
        *_few_or_scattered(evidence),
        *_underused(evidence),
        *emulation_warnings(evidence),
    ]


def _not_checked(evidence: Evidence) -> Iterator[str]:
    reasons = dict.fromkeys((inapplicable(evidence.run), compute_inapplicable(evidence.run)))
    yield from (f"not checked: {reason}" for reason in reasons if reason)


def _few_or_scattered(evidence: Evidence) -> Iterator[str]:
    """Offline only: the repetitions of an online run are different loads, whose JCTs have to differ."""
    if evidence.run.metadata.online is not None:
        return
    metric = metric_of(evidence.run)
    for name, metrics in evidence.policies.items():
        values_s = metric.of(metrics)
        if len(values_s) == 1:
            yield f"one repetition of {name}: its spread is unknown, no confidence interval"
        spread = coefficient_of_variation(values_s)
        if spread is not None and spread > JCT_CV:
            yield f"{name}: {metric.words} varies by {percent(spread)}; under {percent(JCT_CV, 0)} is usual"


def _underused(evidence: Evidence) -> Iterator[str]:
    """Only where some storage NIC was the bottleneck: elsewhere idle NICs are the finding, not a flaw."""
    for name, metrics in evidence.policies.items():
        nics = {host: nic.busy_utilization for host, nic in metrics.storage_nic.items() if nic.expected_busy}
        busy = {host: value for host, value in nics.items() if value is not None}
        if evidence.run.is_oracle(name) or not busy or max(busy.values()) < BUSY_UTILIZATION:
            continue
        for host, value in busy.items():
            if value < BUSY_UTILIZATION:
                yield (
                    f"uneven storage NICs under {name}: {host} at {percent(value)} of its ceiling in the "
                    f"busy window while another runs at {percent(max(busy.values()))}"
                )
