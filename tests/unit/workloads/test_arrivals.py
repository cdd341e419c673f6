import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.arrivals import at_once, poisson, recorded
from workloads.trace import TraceError

rates = st.floats(1e-3, 1e3)
start_lists = st.lists(st.integers(0, 1200).map(lambda n: 3.0 * n), max_size=50)


def test_offline_agents_start_together():
    assert at_once(3).tolist() == [0.0, 0.0, 0.0]


@given(st.integers(0, 200), rates, st.integers(0, 2**32))
def test_poisson_arrivals_ascend_after_a_first_gap(agents, rate, seed):
    starts = poisson(agents, rate, seed)
    assert len(starts) == agents
    assert (np.diff(starts, prepend=0.0) > 0).all()
    assert np.array_equal(starts, poisson(agents, rate, seed))


@given(rates, st.integers(0, 2**32))
def test_a_higher_rate_is_the_same_arrivals_sooner(rate, seed):
    np.testing.assert_allclose(poisson(20, 2 * rate, seed) * 2, poisson(20, rate, seed))


def test_poisson_gaps_are_exponential_with_the_given_rate():
    gaps_s = np.diff(poisson(20_000, 4.0, seed=1), prepend=0.0)
    assert gaps_s.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps_s.std() == pytest.approx(0.25, rel=0.03)
    assert (gaps_s > 0.25).mean() == pytest.approx(np.exp(-1), rel=0.03)


@given(start_lists, st.floats(0.01, 100))
def test_recorded_starts_keep_their_order_and_scaled_distances(starts, time_scale):
    found = recorded(starts, time_scale=time_scale)
    earliest = min(starts, default=0.0)
    np.testing.assert_allclose(found, [(start - earliest) * time_scale for start in starts])


@given(start_lists, st.integers(0, 2**32))
def test_jitter_delays_each_start_by_less_than_it(starts, seed):
    delays = recorded(starts, jitter_s=3.0, seed=seed) - recorded(starts)
    assert ((delays >= 0) & (delays < 3.0 + 1e-9)).all()
    scaled = recorded(starts, jitter_s=3.0, seed=seed, time_scale=0.5)
    np.testing.assert_allclose(scaled * 2, recorded(starts, jitter_s=3.0, seed=seed))


def test_jitter_spreads_quantized_starts():
    assert len(set(recorded([0.0] * 100 + [3.0] * 100).tolist())) == 2
    assert len(set(recorded([0.0] * 100 + [3.0] * 100, jitter_s=3.0, seed=1).tolist())) == 200


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_has_to_be_positive(rate):
    with pytest.raises(
        TraceError, match=f"arrivals: agents_per_s: found {rate}, expected a finite number, above 0"
    ):
        poisson(1, rate, 0)


def test_recorded_refuses_impossible_times():
    with pytest.raises(TraceError, match=r"arrivals: time_scale: found 0\.0"):
        recorded([1.0], time_scale=0.0)
    with pytest.raises(
        TraceError, match=r"arrivals: jitter_s: found -1\.0, expected a finite number, 0 or more"
    ):
        recorded([1.0], jitter_s=-1.0)
