import pytest
from session_strategies import BLOCK_TOKENS, ids

from workloads.inspection import append_tokens, inspect
from workloads.trace import Session, Trace, Turn

TURNS = (
    Turn(8, 5, ids([0, 1]), ids([2]), 0.0),
    Turn(20, 4, ids([0, 1, 2, 3, 4]), ids([5]), 2.0),  # adds 7 to 13
    Turn(21, 1, ids([0, 1, 2, 3, 4]), ids([]), 3.0),  # part of the output was dropped: adds nothing
    Turn(10, 3, ids([0, 6]), ids([7]), 4.0),  # compaction: one block is left
)


def test_appended_tokens_of_growing_and_shrinking_turns():
    assert append_tokens(Session("s", TURNS), BLOCK_TOKENS) == [8, 7, 0, 6]


def test_means_are_over_sessions_of_their_own_means():
    single = Session("single", (Turn(100, 50, ids(range(100, 125)), ids(range(125, 137))),))
    summary = inspect(Trace("test", "ab", BLOCK_TOKENS, (Session("s", TURNS), single), {"a": "b"}))
    assert (summary.sessions, summary.turns, summary.mean_turns) == (2, 5, 2.5)
    assert summary.mean_append == pytest.approx((21 / 4 + 100) / 2)
    assert summary.mean_generated == pytest.approx((13 / 4 + 50) / 2)
    assert summary.mean_context == pytest.approx((59 / 4 + 100) / 2)
    assert summary.mean_total == (13 + 150) / 2
    assert summary.max_context == 100
    assert summary.hit_rate == (12 + 20 + 4) / 51
    assert summary.infinite_cache_hit_rate == (12 + 20 + 4) / (8 + 51 + 100 + 0)
    assert summary.block_ids == "of one session each"
    assert summary.gap_percentiles_s == {"p50": 3.0}
    rows = summary.session_rows
    assert [(row.session_id, row.turns, row.shrinking_turns) for row in rows] == [
        ("s", 4, 1),
        ("single", 1, 0),
    ]
    assert [row.hit_rate for row in rows] == [36 / 51, None]


def test_only_percentiles_that_the_sample_holds():
    turns = tuple(Turn(1, 1, ids([]), ids([]), float(gap)) for gap in range(21))
    summary = inspect(Trace("test", "ab", BLOCK_TOKENS, (Session("s", turns),)))
    assert list(summary.gap_percentiles_s) == ["p10", "p50", "p75", "p90"]
    assert summary.gap_percentiles_s["p50"] == 10.5


def test_shared_blocks_and_little_reuse_are_said():
    one, other = (Session(name, (Turn(8, 1, ids([0, 1]), ids([])),)) for name in ("one", "other"))
    summary = inspect(Trace("test", "ab", BLOCK_TOKENS, (one, other)))
    assert (summary.block_ids, summary.hit_rate, summary.infinite_cache_hit_rate) == ("shared", 0.0, 0.5)
    assert summary.hint is not None
    assert "not a reuse-heavy agentic workload" in summary.hint
    assert "50.0%" in summary.hint


def test_no_hint_where_reuse_is_high():
    turns = tuple(Turn(400, 1, ids(range(100)), ids([])) for _ in range(3))
    assert inspect(Trace("test", "ab", BLOCK_TOKENS, (Session("s", turns),))).hint is None
