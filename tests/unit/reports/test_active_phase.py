from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_run_builder import SECOND_NS, StoredRunBuilder

from reports.active_phase import active_end_at_ns, time_in_passes_ns
from reports.metrics import policy_metrics
from reports.stored_run import StoredRun


def turns(*first_token_at_ns: int) -> pd.DataFrame:
    return pd.DataFrame({"first_token_at_ns": list(first_token_at_ns)}, dtype="int64")


def passes(*rows: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["host", "begin_at_ns", "end_at_ns"])


@given(st.lists(st.integers(0, 10**15), min_size=1))
def test_ends_with_the_turn_that_makes_ninety_percent(first_token_at_ns: list[int]) -> None:
    end_at_ns = active_end_at_ns(turns(*first_token_at_ns))
    assert end_at_ns in first_token_at_ns
    count = len(first_token_at_ns)
    assert 10 * sum(at <= end_at_ns for at in first_token_at_ns) >= 9 * count
    assert 10 * sum(at < end_at_ns for at in first_token_at_ns) < 9 * count


def test_without_turns_there_is_none() -> None:
    assert active_end_at_ns(turns()) == 0


def test_passes_are_cut_at_the_end_and_summed_over_engines() -> None:
    rows = [("p0", 0, 40), ("p0", 0, 40), ("p0", 90, 130), ("p0", 100, 140), ("p1", 20, 50), ("p1", 200, 300)]
    assert time_in_passes_ns(passes(*rows), 100) == {"p0": 90, "p1": 30}


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1),
    st.integers(0, 3000),
)
def test_passes_one_after_the_other_fill_the_phase_at_most(steps: list[tuple[int, int]], until: int) -> None:
    rows, at = [], 0
    for gap, length in steps:
        rows.append(("p0", at + gap, at + gap + length))
        at += gap + length
    assert 0 <= time_in_passes_ns(passes(*rows), until)["p0"] <= until


def test_an_engine_that_idles_only_in_the_tail_was_busy(tmp_path: Path) -> None:
    builder = StoredRunBuilder(
        prefill_hosts=2, sessions=1, turns=10, engines=2, order=("prefill_only", "prefill_only")
    )
    for row in builder.tables["turns"]:
        row["first_token_at_ns"] = (row["turn"] + 1) * SECOND_NS
    for row in builder.tables["forwards"]:
        begin_s = row["forward"]
        length_s = 1 if begin_s < 8 else 3  # from 8 s on over the cut at 9 s, and in the tail
        row |= {"begin_at_ns": begin_s * SECOND_NS, "end_at_ns": (begin_s + length_s) * SECOND_NS}
    for repetition in builder.metadata["repetitions"]:
        repetition["jct_s"] = 100.0
    run = StoredRun.load(builder.write(tmp_path))
    metrics = policy_metrics(run, "prefill_only", run.complete("prefill_only"))
    # p0 all the time, p1, which no turn went to, never.
    assert metrics.prefill_engine_busy == pytest.approx((1 + 0) / 2)
