import pytest
from session_strategies import BLOCK_TOKENS, ids

from workloads.synthesis import synthesize
from workloads.trace import Session, Trace, TraceError, Turn
from workloads.window import select_windows, window_hit_rate


def trace_of(*lengths):
    sessions = tuple(
        Session(f"s{i}", tuple(Turn(1, 1, ids([]), ids([])) for _ in range(n))) for i, n in enumerate(lengths)
    )
    return Trace("test", "0" * 64, BLOCK_TOKENS, sessions)


def test_middle_is_centred_and_beginning_is_not():
    (middle,) = select_windows(trace_of(10), 1, 4, "middle", 0)
    (beginning,) = select_windows(trace_of(10), 1, 4, "beginning", 0)
    assert (middle.first_turn, middle.turn_count, len(middle.turns)) == (3, 4, 4)
    assert (beginning.first_turn, beginning.turn_count) == (0, 4)


def test_none_replays_whole_sessions():
    chosen = select_windows(trace_of(3, 5), 2, None, "middle", 0)
    assert [(w.first_turn, w.turn_count) for w in chosen] == [(0, 3), (0, 5)]


def test_only_long_enough_sessions_are_drawn_once_and_the_seed_decides():
    trace = trace_of(*range(1, 41))
    first = select_windows(trace, 10, 20, "middle", 7)
    assert first == select_windows(trace, 10, 20, "middle", 7)
    assert first != select_windows(trace, 10, 20, "middle", 8)
    names = [w.session.session_id for w in first]
    assert len(set(names)) == 10
    assert all(len(w.session.turns) >= 20 for w in first)


def test_too_few_sessions_says_how_many_there_are():
    with pytest.raises(TraceError, match=r"found 1 sessions of at least 5 turns among 3 \(the longest has 9"):
        select_windows(trace_of(2, 9, 4), 2, 5, "middle", 0)


@pytest.mark.parametrize(("sessions", "turns"), [(0, 1), (-1, None), (1, 0)])
def test_impossible_requests_are_refused(sessions, turns):
    with pytest.raises(TraceError, match="expected at least 1 of each"):
        select_windows(trace_of(3), sessions, turns, "middle", 0)


def test_hit_rate_of_a_window_counts_hits_from_before_it():
    turns = (Turn(8, 1, ids([0, 1]), ids([])), Turn(12, 1, ids([0, 1, 2]), ids([])))
    trace = Trace("test", "0" * 64, BLOCK_TOKENS, (Session("s", turns),))
    assert window_hit_rate(select_windows(trace, 1, 2, "beginning", 0)) == 8 / 12
    assert window_hit_rate(select_windows(trace, 1, 1, "beginning", 0)) == 0.0


def test_a_short_window_in_the_middle_has_the_reuse_of_a_long_run():
    trace = synthesize("paper-64k", 30, seed=1)
    assert window_hit_rate(select_windows(trace, 8, 4, "middle", 0)) >= 0.98
