from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.nic_series import carried, growth, throughput

MS = 1_000_000


def test_a_restarted_counter_goes_on_from_where_it_was() -> None:
    assert growth(np.array([100, 150, 20, 30])).tolist() == [0, 50, 70, 80]


@pytest.mark.parametrize(
    ("kind", "received", "sent"),
    [
        ("none", [0, 10, 30], [0, 1, 2]),
        ("software", [0, 10, 30], [0, 1, 2]),
        ("roce", [0, 1010, 4030], [0, 501, 502]),
        ("infiniband", [0, 1000, 4000], [0, 500, 500]),
    ],
)
def test_what_a_nic_carried_is_its_interface_s_and_its_ports_by_kind(
    kind: str, received: list[int], sent: list[int]
) -> None:
    nic = pd.DataFrame(
        {
            "rdma_kind": kind,
            "rx_bytes": [5, 15, 35],
            "tx_bytes": [7, 8, 9],
            "rdma_rx_bytes": [100, 1100, 4100],
            "rdma_tx_bytes": [0, 500, 500],
        }
    )
    assert carried(nic, "rx").tolist() == received
    assert carried(nic, "tx").tolist() == sent


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=50), st.integers(0, 10**6))
def test_growth_never_falls_and_forgets_the_first_value(steps: list[int], first: int) -> None:
    counter = np.cumsum([first, *steps])
    found = growth(counter)
    assert (np.diff(found) >= 0).all()
    assert found[-1] == sum(steps)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 10**7)), min_size=3, max_size=40))
def test_buckets_conserve_bytes(samples: list[tuple[int, int]]) -> None:
    at_ns = np.cumsum([0, *(gap * MS for gap, _ in samples)])
    counter = np.cumsum([7, *(count for _, count in samples)])
    end_at_ns = int(at_ns[-1])
    middles_s, gbit_per_s = throughput(at_ns, counter, end_at_ns)
    assert middles_s.size == gbit_per_s.size
    lengths_ns = np.diff(np.minimum(np.arange(0, end_at_ns + 100 * MS, 100 * MS), end_at_ns))
    held = np.isfinite(gbit_per_s)
    low = counter[-1] - counter[0] - counter[-1] * (not held.all())
    moved = float((gbit_per_s[held] * lengths_ns[held] / 8).sum())
    assert low <= moved * (1 + 1e-9)
    assert moved <= (counter[-1] - counter[0]) * (1 + 1e-9) + 1


def test_rate_of_a_steady_counter() -> None:
    at_ns = np.arange(0, 1001, 37, dtype=np.int64) * MS
    _, gbit_per_s = throughput(at_ns, at_ns * 25 // 1000, int(at_ns[-1]))
    assert gbit_per_s == pytest.approx(np.full(gbit_per_s.size, 0.2), rel=1e-6)


def test_unsampled_time_is_unknown_not_idle() -> None:
    at_ns = np.array([500, 600, 700], dtype=np.int64) * MS
    _, gbit_per_s = throughput(at_ns, np.array([0, 10, 20]), 1_000 * MS)
    assert np.isnan(gbit_per_s[:5]).all()
    assert np.isfinite(gbit_per_s[5:7]).all()
    assert np.isnan(throughput(at_ns[:1], np.array([5]), 200 * MS)[1]).all()
