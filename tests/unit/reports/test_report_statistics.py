from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.comparison import Metric, compare
from reports.statistics import coefficient_of_variation, distribution, mean, percentiles, speedup

times = st.lists(st.floats(min_value=1e-3, max_value=1e6), min_size=2, max_size=8)


@given(times, times, st.floats(min_value=1e-3, max_value=1e3))
def test_unit_of_time_does_not_matter(baseline: list[float], contender: list[float], factor: float) -> None:
    found = speedup(baseline, contender)
    scaled = speedup([t * factor for t in baseline], [t * factor for t in contender])
    assert scaled.value == pytest.approx(found.value)
    # The bounds may overflow to infinity for wild samples of two; logs compare finite ones.
    for one, other in ((found.ci_low, scaled.ci_low), (found.ci_high, scaled.ci_high)):
        assert one is not None
        assert other is not None
        if 1e-100 < one < 1e100:
            assert other == pytest.approx(one, rel=1e-5)


@given(times, times)
def test_swapping_policies_inverts_value_and_interval(baseline: list[float], contender: list[float]) -> None:
    forth, back = speedup(baseline, contender), speedup(contender, baseline)
    assert forth.value * back.value == pytest.approx(1)
    assert forth.ci_low is not None
    assert forth.ci_high is not None
    assert back.ci_low is not None
    if 1e-100 < forth.ci_high < 1e100:
        assert forth.ci_high * back.ci_low == pytest.approx(1, rel=1e-5)
    assert forth.ci_low <= forth.value <= forth.ci_high


@given(times)
def test_a_policy_against_itself_is_never_significant(jct_s: list[float]) -> None:
    comparison = compare("a", jct_s, "b", jct_s)
    assert not comparison.significant
    assert comparison.text.startswith("no significant difference")


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(20260301)
    true_speedup, covered, trials = 1.9, 0, 1500
    for _ in range(trials):
        baseline = 10 * np.exp(0.02 * random.standard_normal(4))
        contender = 10 / true_speedup * np.exp(0.02 * random.standard_normal(4))
        found = speedup(baseline.tolist(), contender.tolist())
        assert found.ci_low is not None
        assert found.ci_high is not None
        covered += found.ci_low <= true_speedup <= found.ci_high
    assert 0.935 <= covered / trials <= 0.975


def test_identical_repetitions_have_an_interval_of_no_width() -> None:
    found = speedup([10.0, 10.0], [5.0, 5.0])
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((2, 2, 2))


def test_one_repetition_gives_a_value_and_says_that_it_has_no_interval() -> None:
    comparison = compare("prefill_only", [10.0, 10.1], "dual_path", [5.0])
    assert comparison.speedup is not None
    assert comparison.speedup.ci_low is None
    assert comparison.speedup.ci_high is None
    assert not comparison.significant
    assert "no interval" in comparison.text


@pytest.mark.parametrize(
    ("contender", "significant", "text"),
    [
        ([5.0, 5.01, 4.99], True, "b is 2.00x faster than a"),
        ([20.0, 20.02, 19.98], True, "b is 2.00x slower than a"),
        ([10.0, 10.05, 9.95], False, "no significant difference"),
        ([9.9, 9.9001, 9.8999], False, "resolution of 2 %"),
    ],
)
@pytest.mark.parametrize("metric", list(Metric))
def test_words(contender: list[float], significant: bool, text: str, metric: Metric) -> None:
    comparison = compare("a", [10.0, 10.001, 9.999], "b", contender, metric)
    assert comparison.significant is significant
    assert text in comparison.text
    assert f"by {metric.words} (" in comparison.text


def test_no_complete_repetition_means_no_comparison() -> None:
    comparison = compare("a", [], "b", [1.0, 1.0])
    assert comparison.speedup is None
    assert "no complete repetition" in comparison.text


@pytest.mark.parametrize("bad", [[], [0.0, 1.0], [-1.0, 2.0]])
def test_times_have_to_be_positive(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        speedup(bad, [1.0])


@pytest.mark.parametrize(
    ("count", "held"), [(1, set()), (2, {"p50"}), (99, {"p50", "p90"}), (100, {"p50", "p90", "p99"})]
)
def test_percentiles_only_as_far_as_the_sample_goes(count: int, held: set[str]) -> None:
    found = percentiles([float(i) for i in range(count)])
    assert {name for name, value in found.items() if value is not None} == held
    assert set(found) == {"p50", "p90", "p99"}


def test_coefficient_of_variation() -> None:
    assert coefficient_of_variation([1.0]) is None
    assert coefficient_of_variation([9.0, 11.0]) == pytest.approx(math.sqrt(2) / 10)


def test_mean_with_students_interval() -> None:
    found = mean([9.0, 11.0])
    assert found is not None
    # t(0.975, 1 degree) = 12.706, standard error 1.
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx(
        (10, 10 - 12.706, 10 + 12.706), rel=1e-4
    )
    alone = mean([9.0])
    assert alone is not None
    assert (alone.value, alone.ci_low, alone.ci_high) == (9, None, None)
    assert mean([]) is None


def test_a_distribution_without_samples_has_nothing() -> None:
    assert distribution([]) == dict.fromkeys(("p50", "p90", "p99", "mean"))
