"""When a point of an online run is over: the SLO, steadiness, the time limit (paper 7.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment import Online
from harness.online.steady_state import Outcome, PointWatch

RULES = Online(
    agents_per_s=(1.0,),
    slo_ttft_s=4.0,
    slo_tpot_s=0.05,
    window_s=10.0,
    lookback_s=20.0,
    tolerance=0.05,
    limit_s=100.0,
)


def watch(ttft: dict[float, float], tpot: dict[float, float] | None = None) -> PointWatch:
    """One that has seen these values, by second."""
    seen = PointWatch(RULES)
    for at_s, value_s in ttft.items():
        seen.first_token(at_s, value_s)
    for at_s, value_s in (tpot or {}).items():
        seen.finished(at_s, value_s)
    return seen


@pytest.mark.parametrize(
    ("ttft", "tpot", "now_s", "outcome"),
    [
        pytest.param({5: 9.0}, {}, 9.99, None, id="no whole window yet"),
        pytest.param({5: 9.0}, {}, 10, "ttft_slo", id="a whole window"),
        pytest.param({5: 4.0}, {}, 10, None, id="the limit itself is within the SLO"),
        pytest.param({1: 7.9, 5: 0.1}, {}, 10, None, id="the mean counts, not the largest"),
        pytest.param({0.5: 9.0, 5: 0.1}, {}, 10.5, None, id="what is a window old has left it"),
        pytest.param({0.5: 9.0, 5: 0.1}, {}, 10.4, "ttft_slo", id="what is less than a window old has not"),
        pytest.param({10: 9.0}, {}, 10, "ttft_slo", id="what happens now is in the window"),
        pytest.param({5: 0.1}, {5: 0.051}, 10, "tpot_slo", id="TPOT, too"),
        pytest.param({5: 0.1}, {5: 0.05}, 10, None, id="TPOT at its limit"),
        pytest.param({5: 9.0}, {5: 0.051}, 10, "ttft_slo", id="TTFT is looked at first"),
        pytest.param({}, {5: 0.051}, 10, "tpot_slo", id="TPOT alone"),
    ],
)
def test_a_point_that_violates_the_slo(
    ttft: dict[float, float], tpot: dict[float, float], now_s: float, outcome: Outcome | None
) -> None:
    assert watch(ttft, tpot).decide(now_s) == outcome


@pytest.mark.parametrize(
    ("ttft", "now_s", "outcome"),
    [
        pytest.param({5: 1.0, 25: 1.04}, 30, "steady", id="within the tolerance"),
        pytest.param({5: 1.0, 25: 0.96}, 30, "steady", id="below, within the tolerance"),
        pytest.param({5: 3.0, 25: 3.2}, 30, None, id="still growing"),
        pytest.param({5: 3.0, 25: 2.8}, 30, None, id="still falling"),
        pytest.param({5: 1.0, 25: 1.27}, 30, "steady", id="ten times as much more is within the SLO"),
        pytest.param({5: 1.0, 25: 1.28}, 30, None, id="ten times as much more is not"),
        pytest.param({5: 0.06, 25: 0.09}, 30, "steady", id="the noise of few turns far below the SLO"),
        pytest.param({5: 1.0, 25: 1.0}, 29.99, None, id="the window before is not whole"),
        pytest.param({5: 1.0}, 30, None, id="nothing now"),
        pytest.param({25: 1.0}, 30, None, id="nothing before"),
        pytest.param({5: 1.0, 15: 3.0, 25: 1.0}, 30, "steady", id="what lies between does not count"),
        pytest.param({5: 4.1, 25: 4.1}, 30, "ttft_slo", id="steady beyond the SLO is a violation"),
    ],
)
def test_a_point_that_is_steady(ttft: dict[float, float], now_s: float, outcome: Outcome | None) -> None:
    assert watch(ttft).decide(now_s) == outcome


def test_a_point_that_is_never_steady_ends_at_the_limit() -> None:
    seen = PointWatch(RULES)
    for second in range(100):
        seen.first_token(second, 0.5 + 0.034 * second)
        assert seen.decide(second) is None
    assert seen.decide(100) == "time_limit"


def test_a_point_where_nothing_comes_through_ends_at_the_limit() -> None:
    assert PointWatch(RULES).decide(99.9) is None
    assert PointWatch(RULES).decide(100) == "time_limit"


def test_at_the_limit_the_stronger_statement_wins() -> None:
    assert watch({75: 1.0, 95: 1.0}).decide(100) == "steady"
    assert watch({75: 1.0, 95: 4.1}).decide(100) == "ttft_slo"


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from((0.1, 1.0, 9.0)), st.sampled_from((0.01, 0.9)))))
def test_a_decision_is_never_taken_back_and_comes_by_the_limit(
    turns: list[tuple[float, float, float]],
) -> None:
    seen, now_s, said = PointWatch(RULES), 0.0, []
    for later_s, ttft_s, tpot_s in turns:
        now_s += later_s
        seen.first_token(now_s, ttft_s)
        seen.finished(now_s, tpot_s)
        said.append(seen.decide(now_s))
        assert said[-1] is not None or now_s < RULES.limit_s
    decided = [outcome for outcome in said if outcome is not None]
    assert said == [None] * (len(said) - len(decided)) + decided[:1] * len(decided)
    assert seen.decided == (decided[0] if decided else None)
    assert seen.decide(now_s + RULES.limit_s) is not None


def test_a_violation_stays_one_when_the_point_recovers() -> None:
    seen = watch({5: 9.0})
    assert seen.decide(10) == "ttft_slo"
    seen.first_token(15, 0.1)
    assert seen.decide(20) == seen.decide(200) == "ttft_slo"


@given(values=st.lists(st.floats(0.001, 20), min_size=1, max_size=20), shift_s=st.floats(0, 50))
def test_only_the_last_window_decides_about_the_slo(values: list[float], shift_s: float) -> None:
    """Whatever was before the window: the mean of what is in it, against the limit."""
    end_s = 20.0 + shift_s
    before = {i * 0.1: 19.0 for i in range(20)}
    inside = {end_s - 9 + i * 0.1: value for i, value in enumerate(values)}
    violates = sum(values) / len(values) > RULES.slo_ttft_s
    assert (watch(before | inside).decide(end_s) == "ttft_slo") == violates
