from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_run_builder import StoredRunBuilder

from reports.balance import attention_max_over_mean, balance, windowed_max_over_mean
from reports.stored_run import StoredRun

S = 1_000_000_000


def passes(*rows: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["host", "forward", "attention_ns"])


def test_windows_weigh_by_their_traffic() -> None:
    # Max 400, 0, 200 over mean 250, 0, 200.
    received = [np.array([400.0, 0.0, 200.0]), np.array([100.0, 0.0, 200.0])]
    assert windowed_max_over_mean(received) == pytest.approx(600 / 450)
    # Two stray reads, each with the window to itself, say next to nothing.
    received = [np.array([500.0, 1.0, 0.0]), np.array([500.0, 0.0, 1.0])]
    assert windowed_max_over_mean(received) == pytest.approx(1, abs=0.01)
    assert windowed_max_over_mean([np.zeros(3), np.zeros(3)]) is None
    assert windowed_max_over_mean([np.zeros(0), np.zeros(0)]) is None


@given(
    st.integers(1, 6).flatmap(
        lambda hosts: st.lists(st.lists(st.integers(0, 10**9), min_size=hosts, max_size=hosts), min_size=1)
    ),
    st.integers(1, 1000),
)
def test_lies_between_one_and_the_number_of_hosts_whatever_the_unit(
    windows: list[list[int]], unit: int
) -> None:
    by_host = np.array(windows, dtype=np.float64).T
    found = windowed_max_over_mean(list(by_host))
    if found is None:
        assert not by_host.any()
    else:
        assert 1 - 1e-9 <= found <= len(by_host) + 1e-9
        busy = by_host[:, by_host.any(axis=0)]
        ratios = busy.max(axis=0) / busy.mean(axis=0)
        assert found == pytest.approx(np.average(ratios, weights=busy.sum(axis=0)))
        assert windowed_max_over_mean(list(by_host * unit)) == pytest.approx(found)


def test_an_engine_without_work_counts_as_zero() -> None:
    # p0: max 30, mean 15; p1's pass of the same number is another: 5 and 5.
    rows = [("p0", 7, 30), ("p0", 7, 10), ("p0", 7, 20), ("p0", 7, 0), ("p1", 7, 5), ("p1", 7, 5)]
    assert attention_max_over_mean(passes(*rows)) == pytest.approx(35 / 20)


def test_passes_of_one_engine_or_without_attention_have_no_balance() -> None:
    assert attention_max_over_mean(passes(("p0", 0, 9), ("p0", 1, 0), ("p0", 1, 0))) is None
    assert attention_max_over_mean(passes()) is None


def counters(policy: str, host: str, *samples: tuple[float, int]) -> list[dict[str, Any]]:
    identity = {"repetition": 0, "policy": policy, "host": host, "nic": "stor0", "network": "storage"}
    role = "prefill" if host.startswith("p") else "decode"
    return [
        identity | {"role": role, "at_ns": round(at_s * S), "rx_bytes": received, "tx_bytes": 0}
        for at_s, received in samples
    ]


def test_the_tail_after_the_first_tokens_is_left_out(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=10, order=("dual_path",))
    for row in builder.tables["turns"]:
        row["first_token_at_ns"] = (22 if row["turn"] < 9 else 40) * S
    builder.tables["nics"] = [
        *counters("dual_path", "p0", (0, 50), (10, 450), (20, 650), (40, 750)),
        *counters("dual_path", "d0", (0, 50), (10, 150), (20, 350), (40, 350)),
    ]
    found = balance(StoredRun.load(builder.write(tmp_path)), "dual_path")
    # Windows of 1 s x dilation 10, whole ones; 400 : 100 and 200 : 200, then only p0 reads.
    assert found.storage_nic["all"].value == pytest.approx((400 + 200) / (250 + 200))
    assert found.storage_nic["all"].ci_low is None
    assert found.storage_nic["prefill"].value == found.storage_nic["decode"].value == 1


def test_idle_decode_nics_and_even_ones_are_told_apart(tmp_path: Path) -> None:
    order = ("prefill_only", "dual_path", "dual_path")
    run = StoredRun.load(StoredRunBuilder(turns=30, order=order).write(tmp_path))
    basic, dual = balance(run, "prefill_only"), balance(run, "dual_path")
    assert set(basic.storage_nic) == {"all"}
    assert basic.storage_nic["all"].value == pytest.approx(2)
    assert set(dual.storage_nic) == {"all", "prefill", "decode"}
    assert dual.storage_nic["all"].value == pytest.approx(1, abs=0.01)
    assert dual.storage_nic["all"].ci_low is not None
    assert dual.attention == {}


def test_attention_over_the_active_phase_and_the_start(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=20, engines=4, order=("prefill_only",), compute_s=1.0)
    for row in builder.tables["forwards"]:
        # Even in the first pass and from the 90 % of first tokens on; one engine of four in between.
        even = row["forward"] in (0, 18, 19)
        row["attention_ns"] = 10 if even or row["engine"] == 0 else 0
    found = balance(StoredRun.load(builder.write(tmp_path)), "prefill_only").attention
    assert found["start"].value == 1
    assert found["active"].value == pytest.approx(18 * 10 / (10 + 17 * 2.5))


def test_nothing_is_said_where_counters_say_nothing(tmp_path: Path) -> None:
    loopback = StoredRunBuilder(sessions=2, turns=4, mode="loopback")
    assert balance(StoredRun.load(loopback.write(tmp_path / "a")), "dual_path").storage_nic == {}
    unsampled = StoredRunBuilder(sessions=2, turns=4)
    unsampled.tables["nics"] = [row for row in unsampled.tables["nics"] if row["host"] == "d0"]
    assert "all" not in balance(StoredRun.load(unsampled.write(tmp_path / "b")), "dual_path").storage_nic
