"""The search for the highest arrival rate within the SLO, against oracles that are told the answer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment import Online
from harness.online.aps_search import ApsSearch
from harness.online.steady_state import Outcome

LOW, HIGH = 2.0, 50.0
FAILING: list[Outcome] = ["ttft_slo", "tpot_slo", "time_limit"]


def bisection(resolution: float) -> ApsSearch:
    return ApsSearch(Online(search_from=LOW, search_to=HIGH, resolution=resolution))


def searched(search: ApsSearch, threshold: float, failing: Outcome = "ttft_slo") -> list[float]:
    """The rates that were tried, where all up to ``threshold`` are steady."""
    tried: list[float] = []
    while (rate := search.next_rate()) is not None:
        assert len(tried) < 1000
        tried.append(rate)
        search.record(rate, "steady" if rate <= threshold else failing)
    return tried


def most_points(resolution: float) -> int:
    """Each point halves the bracket's logarithm; one more tries the end where the search ended up."""
    return 1 + max(0, math.ceil(math.log2(math.log(HIGH / LOW) / -math.log(1 - resolution)) + 1e-9))


@given(
    threshold=st.floats(LOW, HIGH, exclude_max=True),
    resolution=st.floats(0.001, 0.9),
    failing=st.sampled_from(FAILING),
)
def test_the_bracket_closes_around_the_threshold(
    threshold: float, resolution: float, failing: Outcome
) -> None:
    search = bisection(resolution)
    tried = searched(search, threshold, failing)
    highest = search.highest_steady
    assert highest is not None
    lowest_failing = search.lowest_failing
    assert lowest_failing is not None
    assert highest <= threshold < lowest_failing
    assert 1 - highest / lowest_failing <= resolution
    assert len(set(tried)) == len(tried)
    assert len(tried) <= most_points(resolution)


@given(threshold=st.floats(0, LOW, exclude_max=True), failing=st.sampled_from(FAILING))
def test_where_nothing_meets_the_slo_the_lower_end_says_so(threshold: float, failing: Outcome) -> None:
    search = bisection(0.05)
    tried = searched(search, threshold, failing)
    assert tried[-1] == LOW
    assert len(tried) <= most_points(0.05)
    assert search.highest_steady is None


@given(threshold=st.floats(HIGH, 1000))
def test_where_all_is_steady_the_upper_end_says_so(threshold: float) -> None:
    search = bisection(0.05)
    tried = searched(search, threshold)
    assert tried[-1] == HIGH
    assert len(tried) <= most_points(0.05)
    assert search.highest_steady == HIGH
    assert search.lowest_failing is None


@given(outcomes=st.lists(st.sampled_from(["steady", *FAILING]), min_size=40, max_size=40))
def test_the_search_ends_whatever_the_points_show(outcomes: list[Outcome]) -> None:
    search = bisection(0.05)
    for outcome in outcomes:
        if (rate := search.next_rate()) is None:
            return
        assert LOW <= rate <= HIGH
        assert rate not in search.outcomes
        search.record(rate, outcome)
    pytest.fail("still searching")


@given(
    rates=st.lists(st.floats(0.1, 100), min_size=1, max_size=8, unique=True), threshold=st.floats(0.05, 100)
)
def test_given_points_are_all_tried_in_their_order(rates: list[float], threshold: float) -> None:
    search = ApsSearch(Online(agents_per_s=tuple(rates)))
    assert searched(search, threshold) == rates
    assert search.highest_steady == max((rate for rate in rates if rate <= threshold), default=None)


def test_a_rate_given_twice_is_tried_once() -> None:
    assert searched(ApsSearch(Online(agents_per_s=(3.0, 1.0, 3.0))), 2.0) == [3.0, 1.0]
