import numpy as np
from hypothesis import given
from session_strategies import BLOCK_TOKENS, ids, sessions

from workloads.prefix import common_prefix_blocks, hit_blocks, hit_rate
from workloads.trace import Session, Trace, Turn


def turn(prompt, generated=(), *, tail=0):
    input_tokens = len(prompt) * BLOCK_TOKENS + tail
    return Turn(input_tokens, len(generated) * BLOCK_TOKENS + 1, ids(prompt), ids(generated))


def test_hits_are_the_leading_stored_blocks():
    session = Session(
        "s",
        (
            turn([1, 2, 3], [4]),
            turn([1, 2, 3, 4, 5, 6]),  # grows over what was generated
            turn([1, 2, 9]),  # compaction
            turn([1, 2, 3, 4, 5, 6, 7]),  # back to the longer context
            turn([8, 1, 2]),  # stored blocks behind a new one are no prefix
        ),
    )
    assert hit_blocks(session) == [0, 4, 2, 6, 0]


def test_hit_rate_leaves_first_turns_and_partial_blocks_out():
    session = Session("s", (turn([1, 2]), turn([1, 2, 3], tail=2)))
    trace = Trace("test", "", BLOCK_TOKENS, (session,))
    assert hit_rate(trace) == 2 * BLOCK_TOKENS / (3 * BLOCK_TOKENS + 2)


def test_hit_rate_of_single_turns_is_zero():
    assert hit_rate(Trace("test", "", BLOCK_TOKENS, (Session("s", (turn([1]),)),))) == 0.0


@given(sessions())
def test_hits_match_their_definition(session):
    stored, expected = set(), []
    for t in session.turns:
        prompt = t.block_ids.tolist()
        expected.append(max(n for n in range(len(prompt) + 1) if set(prompt[:n]) <= stored))
        stored |= {*prompt, *t.generated_block_ids.tolist()}
    assert hit_blocks(session) == expected


@given(sessions())
def test_common_prefix_is_symmetric_and_maximal(session):
    a, b = session.turns[0].block_ids, session.turns[-1].block_ids
    n = common_prefix_blocks(a, b)
    assert n == common_prefix_blocks(b, a)
    assert np.array_equal(a[:n], b[:n])
    assert n == min(len(a), len(b)) or a[n] != b[n]
