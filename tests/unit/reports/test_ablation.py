from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from stored_run_builder import StoredRunBuilder

from reports import StoredRun, analyse, render
from reports.charts import charts
from reports.comparison import Metric
from reports.headlines import headlines
from reports.result_tables import result_tables


def variant(policy: str, *, layerwise: bool, scheduling: bool) -> dict[str, Any]:
    return {"policy": policy, "layerwise": layerwise, "scheduling": scheduling}


# Names say nothing about the order.
VARIANTS = {
    "ours": variant("dual_path", layerwise=True, scheduling=True),
    "bound": variant("oracle", layerwise=True, scheduling=True),
    "a_second_path": variant("dual_path", layerwise=True, scheduling=False),
    "basic": variant("prefill_only", layerwise=False, scheduling=False),
    "by_layers": variant("prefill_only", layerwise=True, scheduling=False),
}
JCT_S = {"basic": (9, 11), "by_layers": (8, 8), "a_second_path": (6, 6), "ours": (5, 5), "bound": (4, 4)}


def ablated(order: tuple[str, ...], variants: dict[str, dict[str, Any]] = VARIANTS) -> StoredRunBuilder:
    """Two repetitions a variant, whose agents' JCTs are ``JCT_S``."""
    builder = StoredRunBuilder(sessions=2, turns=1, order=order * 2, variants=dict(variants))
    builder.metadata |= {"baseline": order[0], "contender": order[-1]}
    for row in builder.tables["turns"]:
        row["done_at_ns"] = JCT_S[row["policy"]][row["repetition"] // len(order)] * 1_000_000_000
    return builder


def test_variants_follow_the_papers_order_with_what_each_adds(tmp_path: Path) -> None:
    run = StoredRun.load(ablated(tuple(VARIANTS)).write(tmp_path))
    steps = analyse(run).ablation
    assert [step.name for step in steps] == ["basic", "by_layers", "a_second_path", "ours", "bound"]
    assert [step.agent_jct_s.value for step in steps if step.agent_jct_s] == [10, 8, 6, 5, 4]
    # Geometric mean of 9 and 11.
    first = 99**0.5
    assert steps[0].reduction is None
    reductions = [step.reduction.value for step in steps[1:] if step.reduction]
    assert reductions == pytest.approx([1 - 8 / first, 1 - 6 / first, 1 - 5 / first, 1 - 4 / first])
    for step in steps[1:]:
        assert step.reduction is not None
        assert step.reduction.ci_low is not None
        assert step.reduction.ci_high is not None
        assert step.reduction.ci_low < step.reduction.value < step.reduction.ci_high
    assert [step.paper_reduction for step in steps] == [None, 0.1721, 0.3819, 0.4562, None]


def test_everything_follows_that_order(tmp_path: Path) -> None:
    run = StoredRun.load(ablated(tuple(VARIANTS)).write(tmp_path))
    summary = analyse(run)
    order = ["basic", "by_layers", "a_second_path", "ours", "bound"]
    assert list(summary.policies) == list(summary.bottlenecks) == list(summary.balance) == order
    assert [table.columns[1:] for table in result_tables(run, summary) if table.title == "Policies"] == [
        order
    ]


def test_speedup_is_that_of_the_agents_not_of_the_longest_answer(tmp_path: Path) -> None:
    builder = ablated(("basic", "ours"))
    for repetition in builder.metadata["repetitions"]:
        repetition["jct_s"] = 20.0
    run = StoredRun.load(builder.write(tmp_path))
    summary = analyse(run)
    assert summary.comparison is not None
    assert summary.comparison.metric is Metric.AGENT_JCT
    assert summary.comparison.speedup is not None
    assert summary.comparison.speedup.value == pytest.approx(99**0.5 / 5)
    assert "by mean JCT of an agent (" in summary.verdict
    figures = [(figure.label, figure.value) for figure in headlines(summary)[:3]]
    assert figures == [
        ("Speedup (mean JCT of an agent)", "1.99x"),
        ("Mean JCT of an agent, basic", "10 s"),
        ("Mean JCT of an agent, ours", "5 s"),
    ]
    assert next(chart.title for chart in charts(run, summary) if chart.key == "jct").endswith(
        "of an agent, mean"
    )
    assert any(line.startswith("basic: mean JCT of an agent varies by 14.1 %") for line in summary.warnings)


def test_the_papers_figures_stand_only_beside_its_own_first_step(tmp_path: Path) -> None:
    steps = analyse(StoredRun.load(ablated(("by_layers", "ours")).write(tmp_path))).ablation
    assert [step.name for step in steps] == ["by_layers", "ours"]
    assert [step.paper_reduction for step in steps] == [None, None]


def test_policies_alone_are_no_ablation(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=2, turns=2, order=("prefill_only", "dual_path", "oracle"))
    assert analyse(StoredRun.load(builder.write(tmp_path))).ablation == []


def test_a_variant_without_a_result_keeps_its_row(tmp_path: Path) -> None:
    builder = ablated(("basic", "ours"))
    for repetition in builder.metadata["repetitions"]:
        repetition["complete"] = repetition["policy"] == "basic"
    basic, ours = analyse(StoredRun.load(builder.write(tmp_path))).ablation
    assert basic.agent_jct_s is not None
    assert (ours.agent_jct_s, ours.reduction, ours.bound) == (None, None, "")


def test_both_reports_show_it_beside_the_paper(tmp_path: Path) -> None:
    builder = StoredRunBuilder(order=("basic", "ours") * 2, variants=dict(VARIANTS))
    builder.metadata |= {"baseline": "basic", "contender": "ours"}
    render(builder.write(tmp_path))
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "Ablation: what each part adds" in text
        assert "45.62 %" in text
        assert re.search(r"bounded by prefill storage NICs \(9[89] % busy\)", text)
