from session_strategies import BLOCK_TOKENS, ids

from workloads.agents import agents_for
from workloads.synthesis import synthesize
from workloads.trace import Session, Turn
from workloads.window import ReplayWindow, window_hit_rate

TURNS = (Turn(8, 1, ids([0, 1]), ids([])), Turn(12, 1, ids([0, 1, 2]), ids([])))


def window(first_turn, turn_count, session_id="s", start_s=0.0):
    return ReplayWindow(Session(session_id, TURNS, start_s), first_turn, turn_count, BLOCK_TOKENS)


def test_the_window_selects_its_turns():
    assert window(1, 1).turns == TURNS[1:]
    assert window(0, 2).turns == TURNS


def test_hit_rate_of_a_window_counts_hits_from_before_it():
    assert window_hit_rate([window(0, 2)]) == 8 / 12
    assert window_hit_rate([window(1, 1)]) == 8 / 12
    assert window_hit_rate([window(0, 1)]) == 0.0


def test_first_turns_count_where_sessions_share_blocks():
    assert window_hit_rate([window(0, 1), window(0, 1, "t", 5.0)]) == 8 / 16
    assert window_hit_rate([window(0, 2), window(0, 2, "t", 5.0)]) == (8 + 8 + 12) / 40


def test_a_short_window_in_the_middle_has_the_reuse_of_a_long_run():
    trace = synthesize("paper-64k", 30, seed=1)
    assert window_hit_rate(agents_for(trace, 8, 4, "middle", 0)) >= 0.98
