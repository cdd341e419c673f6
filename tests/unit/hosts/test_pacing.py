"""The token bucket that stands in for a shaped NIC."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.pacing import BURST_S, TokenBucket


@given(
    rate=st.floats(1e3, 1e9),
    asks=st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 1 << 20)), min_size=1, max_size=50),
)
def test_no_interval_passes_more_than_rate_and_burst(rate: float, asks: list[tuple[float, int]]) -> None:
    bucket, now_at, passed = TokenBucket(rate), 100.0, []
    for pause_s, nbytes in asks:
        now_at += pause_s
        passed.append((max(now_at, bucket.reserve(nbytes, now_at)), nbytes))
    times = [at for at, _ in passed]
    assert times == sorted(times)
    for first in range(len(passed)):
        total_bytes = sum(nbytes for _, nbytes in passed[first + 1 :])
        assert total_bytes <= rate * (times[-1] - times[first] + BURST_S) * (1 + 1e-6) + 1


@given(rate=st.floats(1e3, 1e9), sizes=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=50))
def test_a_busy_link_runs_at_its_rate(rate: float, sizes: list[int]) -> None:
    bucket = TokenBucket(rate)
    done_at = max(bucket.reserve(nbytes, 0.0) for nbytes in sizes)
    assert done_at == pytest.approx(sum(sizes) / rate - BURST_S)


def test_zero_is_not_paced_and_less_is_refused() -> None:
    assert TokenBucket(0).reserve(1 << 40, 5.0) == 5.0
    with pytest.raises(ValueError, match="expected 0"):
        TokenBucket(-1)
