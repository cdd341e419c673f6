from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.busy_window import busy_window, bytes_within


def transfers(*rows: tuple[str, int, int, int], kind: str = "storage_read") -> pd.DataFrame:
    columns = ["host", "begin_at_ns", "end_at_ns", "bytes"]
    return pd.DataFrame(list(rows), columns=columns).assign(kind=kind)


def turns(**done_at_ns: int) -> pd.DataFrame:
    return pd.DataFrame({"session_id": list(done_at_ns), "done_at_ns": list(done_at_ns.values())})


def test_ends_when_the_first_busy_host_reads_for_the_last_time() -> None:
    reads = transfers(("p0", 10, 900, 100), ("d0", 20, 400, 100), ("d0", 30, 700, 100))
    window = busy_window(reads, turns(a=950, b=960))
    assert window is not None
    assert (window.begin_at_ns, window.end_at_ns, window.busy_hosts) == (10, 700, ("d0", "p0"))


def test_ends_when_half_of_the_sessions_are_done() -> None:
    reads = transfers(("p0", 0, 900, 100))
    window = busy_window(reads, turns(a=200, b=500, c=800, d=950))
    assert window is not None
    assert window.end_at_ns == 500


def test_a_trickle_does_not_make_a_host_busy() -> None:
    reads = transfers(("p0", 0, 900, 1000), ("d0", 0, 50, 99))
    window = busy_window(reads, turns(a=950))
    assert window is not None
    assert window.busy_hosts == ("p0",)
    assert window.end_at_ns == 900


def test_no_reads_no_window() -> None:
    assert busy_window(transfers(("d0", 0, 10, 5), kind="storage_write"), turns(a=10)) is None
    assert busy_window(transfers(), turns()) is None


def test_queued_reads_do_not_count_before_they_are_served() -> None:
    # Both join the queue at 0; the second is served from 100 to 200.
    reads = transfers(("p0", 0, 100, 1000), ("p0", 0, 200, 1000))
    assert bytes_within(reads, 0, 100) == pytest.approx(1000)
    assert bytes_within(reads, 0, 150) == pytest.approx(1500)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 2 * 10**6),
)
def test_bytes_of_two_adjoining_intervals_add_up(rows: list[tuple[int, int, int]], cut: int) -> None:
    reads = transfers(*(("p0", begin, begin + length, count) for begin, length, count in rows))
    total = float(reads["bytes"].sum())
    whole = bytes_within(reads, -1, 3 * 10**6)
    assert whole == pytest.approx(total)
    assert bytes_within(reads, -1, cut) + bytes_within(reads, cut, 3 * 10**6) == pytest.approx(total)
