"""Tables of what the paper's evaluation reports too, its figures beside ours: 7.4, 7.5 and online serving.

The paper's come from other hardware at another scale; they are there to compare directions and sizes.
"""

from __future__ import annotations

from reports.ablation import Step
from reports.active_phase import ACTIVE_SHARE
from reports.balance import PAPER_ATTENTION_START, PAPER_STORAGE_NIC, START, WINDOW_REAL_S
from reports.latency import PARTS, ttft_parts
from reports.online import PAPER_RATIO, Online, Point, slo_text
from reports.statistics import Estimate
from reports.stored_run import StoredRun
from reports.summary import Summary
from reports.table import Table
from reports.units import ABSENT, interval, number, percent, seconds

OUTCOMES = {
    "steady": "meets the SLO",
    "ttft_slo": "TTFT above the SLO",
    "tpot_slo": "TPOT above the SLO",
    "time_limit": "neither steady nor above in time",
}


def ablation_table(run: StoredRun, summary: Summary) -> Table:
    """What each part adds, in the paper's order."""
    dilation = run.metadata.scale.time_dilation
    first = summary.ablation[0].name if summary.ablation else ""
    columns = [
        "variant",
        "reads",
        "layerwise prefill",
        "scheduling",
        "mean JCT of an agent, emulated",
        "95 % interval",
        "real hardware",
        f"below {first}",
        "95 % interval",
        "paper, other scale",
        "bounding resource",
    ]
    return Table(
        "Ablation: what each part adds",
        columns,
        [_step_row(step, dilation) for step in summary.ablation],
        "Paper, other scale: 660B, 64K, 1024 and 2048 agents, mean JCT below Basic (7.4).",
        labels=4,
        remarks=1,
    )


def _step_row(step: Step, dilation: float) -> list[str]:
    mean, variant = step.agent_jct_s, step.variant
    return [
        step.name,
        variant.policy,
        "on" if variant.layerwise else "off",
        "on" if variant.scheduling else "off",
        seconds(mean.value if mean else None),
        interval(mean, seconds),
        seconds(mean.value / dilation if mean else None),
        percent(step.reduction.value if step.reduction else None, 2),
        interval(step.reduction, lambda value: percent(value, 2)),
        percent(step.paper_reduction, 2),
        step.bound,
    ]


def balance_table(summary: Summary) -> Table:
    """Max over mean, per policy: a column a measure."""
    rows = [
        [
            policy,
            *(_ratio(balance.storage_nic.get(group)) for group in ("all", "prefill", "decode")),
            *(_ratio(balance.attention.get(span)) for span in ("active", "start")),
        ]
        for policy, balance in summary.balance.items()
        if balance.storage_nic or balance.attention
    ]
    storage = ", ".join(f"{value} ({how})" for how, value in PAPER_STORAGE_NIC.items())
    return Table(
        "Balance: max / mean",
        [
            "policy",
            "storage NICs, all serving hosts",
            "prefill hosts",
            "decode hosts",
            "attention time, active phase",
            f"attention time, first {percent(START, 0)} of the job",
        ],
        rows,
        f"1 is perfect. Storage NICs in windows of {WINDOW_REAL_S:g} s on the real hardware, weighted by "
        "their traffic; attention over the engines of a forward pass, weighted by its attention time; both "
        f"in the active phase, until {percent(ACTIVE_SHARE, 0)} of the turns have their first token. In "
        "brackets: 95 % interval over repetitions. Paper, other scale, its windows and weights not given "
        f"(7.5): storage NICs {storage}, attention in the first {percent(START, 0)} down to "
        f"{PAPER_ATTENTION_START}.",
    )


def _ratio(estimate: Estimate | None) -> str:
    if estimate is None:
        return ABSENT
    bounds = interval(estimate, lambda value: f"{value:.2f}")
    return f"{estimate.value:.2f}" + ("" if bounds == ABSENT else f" ({bounds})")


def served_table(online: Online) -> Table:
    """The highest load within the SLO, by policy."""
    rows = [
        [
            policy,
            number(served.max_agents_per_s) if served.max_agents_per_s else "none",
            ABSENT if not served.max_agents_per_s else "yes" if served.limited else "no: serves this or more",
        ]
        for policy, served in online.policies.items()
    ]
    paper = ", ".join(f"{ratio}x ({model})" for model, ratio in PAPER_RATIO.items())
    return Table(
        f"Agents served within the SLO ({slo_text(online.slo)}, real hardware)",
        ["policy", "highest agents/s within the SLO", "a higher rate was not served"],
        rows,
        f"{online.text}. Paper, other scale: DualPath over Basic {paper}. A rate is measured once and only "
        "at the points below, so the ratio has no interval.",
        remarks=1,
    )


def point_table(online: Online) -> Table:
    """Latencies by policy and arrival rate."""
    measures = ("mean", "p90", "p99")
    rows = [
        [
            *_identity(policy, point),
            *(seconds(point.ttft_real_s[name]) for name in measures),
            *(seconds(point.ttst_real_s[name]) for name in measures),
            *(seconds(point.tpot_real_s[name]) for name in measures),
            str(point.repetition),
            OUTCOMES.get(point.outcome, point.outcome),
        ]
        for policy, point in _points(online)
    ]
    columns = [f"{metric} {name}" for metric in ("TTFT", "TTST", "TPOT") for name in measures]
    return Table(
        "Arrival rates measured (real hardware)",
        ["policy", "agents/s", *columns, "repetition", "outcome"],
        rows,
        "Latencies over all turns of a point. Its last window decides the outcome, steady within the SLO or "
        "above it, so that a point above it may have a mean below it.",
        remarks=1,
    )


def point_ttft_table(online: Online) -> Table:
    """The parts of TTFT and the bottleneck by policy and arrival rate."""
    rows = [
        [
            *_identity(policy, point),
            *(seconds(parts_s.get(part)) for part in PARTS),
            point.bound or ABSENT,
        ]
        for policy, point in _points(online)
        for parts_s in (ttft_parts(point.ttft_breakdown_real_s),)
    ]
    return Table(
        "Where the time to first token goes, by arrival rate (mean, real hardware)",
        [
            "policy",
            "agents/s",
            "scheduling",
            "allocation",
            "KV read",
            "prefill",
            "control messages",
            "bounding resource",
        ],
        rows,
        remarks=1,
    )


def _points(online: Online) -> list[tuple[str, Point]]:
    return [(policy, point) for policy, served in online.policies.items() for point in served.points]


def _identity(policy: str, point: Point) -> list[str]:
    return [policy, number(point.agents_per_s)]
