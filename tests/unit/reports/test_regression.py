"""A speedup against a threshold: by the end of its interval, never in doubt of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder

from reports import StoredRun, Summary, analyse
from reports.regression import regression, speedup_of

Points = list[tuple[float, str]]


def analysed(builder: StoredRunBuilder, directory: Path) -> Summary:
    return analyse(StoredRun.load(builder.write(directory / "run")))


def test_it_fails_only_where_the_whole_interval_is_below(tmp_path: Path) -> None:
    summary = analysed(StoredRunBuilder(sessions=6, turns=6, jitter=0.05), tmp_path)
    value, low, high = speedup_of(summary)
    assert value is not None
    assert low is not None
    assert high is not None
    assert low < value < high
    for passed in (0.0, low, (value + high) / 2, high):
        assert regression(summary, passed) is None
    failed = regression(summary, high + 1e-9)
    assert failed is not None
    assert f"found {value:.3f}x, at most {high:.3f}x, expected {high:g}x or more" in failed.line
    assert regression(summary, math.nan) is not None


def test_of_one_repetition_the_estimate_itself_counts(tmp_path: Path) -> None:
    summary = analysed(StoredRunBuilder(sessions=6, turns=6, order=("prefill_only", "dual_path")), tmp_path)
    value, low, high = speedup_of(summary)
    assert value is not None
    assert low is high is None
    assert regression(summary, value) is None
    assert regression(summary, value + 1e-9) is not None


def test_a_run_that_compares_nothing_does_not_pass(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=2, turns=2, order=("dual_path",))
    builder.metadata |= {"baseline": None, "contender": None}
    failed = regression(analysed(builder, tmp_path), 0.5)
    assert failed is not None
    assert failed.found == "none"


LIMITED = [(0.2, "steady"), (0.4, "ttft_slo")]


@pytest.mark.parametrize(
    ("basic", "dual", "threshold", "passes"),
    [
        # Between 0.36/0.4 and 0.5/0.2.
        (LIMITED, [(0.36, "steady"), (0.5, "ttft_slo")], 2.5, True),
        (LIMITED, [(0.36, "steady"), (0.5, "ttft_slo")], 2.6, False),
        # At least 1.8; nobody knows how much more.
        (LIMITED, [(0.36, "steady")], 99, True),
        # The contender serves no rate at all: at most 0.3/0.2.
        (LIMITED, [(0.3, "ttft_slo")], 1.6, False),
        # The baseline serves none: infinitely more.
        ([(0.2, "ttft_slo")], [(0.2, "steady")], 99, True),
        # No rate was too high for either: nothing is compared.
        ([(0.2, "steady")], [(0.36, "steady")], 1.0, False),
    ],
)
def test_online_it_is_held_against_the_rates_tried(
    basic: Points, dual: Points, threshold: float, passes: bool, tmp_path: Path
) -> None:
    points = {"prefill_only": basic, "dual_path": dual}
    summary = analysed(StoredRunBuilder(sessions=4, turns=3, points=points), tmp_path)
    assert (regression(summary, threshold) is None) is passes
