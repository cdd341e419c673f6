from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.latency import (
    BREAKDOWN,
    PARTS,
    agent_jct_s,
    real,
    tpot_distribution,
    ttft_breakdown,
    ttft_distribution,
    ttft_parts,
    ttst_distribution,
)

MS = 1_000_000
TIMED = ("allocate_ns", "read_ns", "engine_wait_ns", "hbm_wait_ns", "compute_ns", "transfer_ns")


def decoded(*rows: tuple[int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["output_tokens", "second_token_ns", "decode_ns"])


def test_a_turn_of_one_token_has_no_second_token_and_no_time_per_token() -> None:
    turns = decoded((1, 0, 0), (2, 30 * MS, 30 * MS), (5, 50 * MS, 80 * MS))
    assert ttst_distribution(turns) == pytest.approx({"p50": 0.040, "p90": None, "p99": None, "mean": 0.040})
    # 30 ms / 1 and 80 ms / 4.
    assert tpot_distribution(turns) == pytest.approx({"p50": 0.025, "p90": None, "p99": None, "mean": 0.025})
    assert ttst_distribution(turns[:1])["mean"] is tpot_distribution(turns[:1])["mean"] is None


def test_an_agent_is_done_with_its_last_turn() -> None:
    turns = pd.DataFrame(
        [(0, "a", 0, 5), (0, "a", 6, 9), (0, "b", 2, 4), (1, "a", 1, 4)],
        columns=["repetition", "session_id", "arrived_at_ns", "done_at_ns"],
    )
    turns[["arrived_at_ns", "done_at_ns"]] *= 1000 * MS
    assert agent_jct_s(turns).to_dict() == {(0, "a"): 9, (0, "b"): 2, (1, "a"): 3}


durations_ns = st.integers(0, 10**10)


@given(st.lists(st.tuples(*[durations_ns] * 8), min_size=1, max_size=5))
def test_the_papers_parts_and_control_add_up_to_ttft(rows: list[tuple[int, ...]]) -> None:
    turns = pd.DataFrame(rows, columns=["dispatched_at_ns", *TIMED, "extra_ns"]).assign(arrived_at_ns=0)
    turns["first_token_at_ns"] = turns.drop(columns="arrived_at_ns").sum(axis=1)
    breakdown = ttft_breakdown(turns)
    parts = ttft_parts(breakdown)
    assert tuple(breakdown) == BREAKDOWN
    assert tuple(parts) == tuple(PARTS)
    assert sum(parts.values()) == pytest.approx(ttft_distribution(turns)["mean"])
    assert parts["prefill"] == pytest.approx(float(turns[list(TIMED[2:])].sum(axis=1).mean()) / 1e9)
    assert parts["control"] == pytest.approx(float(turns["extra_ns"].mean()) / 1e9, abs=1e-6)


def test_every_finer_part_is_in_one_of_the_papers() -> None:
    assert sorted(part for inside in PARTS.values() for part in inside) == sorted(BREAKDOWN)
    assert ttft_parts({}) == {}


def test_real_time_is_emulated_over_the_dilation() -> None:
    assert real({"mean": 5.0, "p99": None}, 10.0) == {"mean": 0.5, "p99": None}
