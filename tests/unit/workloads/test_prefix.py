from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from session_strategies import BLOCK_TOKENS, blocks_of, ids, related_sessions, sessions

from workloads.prefix import (
    common_prefix_blocks,
    hit_blocks,
    hit_rate,
    infinite_cache_hit_rate,
    recorded_order,
    reuse,
)
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


@given(related_sessions())
def test_recorded_order_is_by_time_then_as_given(related):
    times = [
        (related[s].start_s + sum(t.gap_s for t in related[s].turns[1 : index + 1]), s, index)
        for s, index in recorded_order(related)
    ]
    assert len(times) == sum(len(session.turns) for session in related)
    assert all(a < b for a, b in pairwise(times))


@given(related_sessions())
def test_sharing_a_store_only_adds_hits(related):
    found = reuse(related)
    for session, together in zip(related, found.hits, strict=True):
        alone = hit_blocks(session)
        assert len(together) == len(alone)
        for turn, shared_hit, own_hit in zip(session.turns, together, alone, strict=True):
            assert own_hit <= shared_hit <= len(turn.block_ids)
        if not found.shared:
            assert list(together) == alone


@given(related_sessions(max_sessions=3))
def test_shared_are_the_blocks_of_several_sessions(related):
    own = [blocks_of(session) for session in related]
    several = {b for i, a in enumerate(own) for c in own[i + 1 :] for b in a & c}
    assert reuse(related).shared == several


def test_one_infinite_cache_serves_all_sessions_in_recorded_order():
    late = Session("late", (turn([1, 2, 5], tail=1),), start_s=10.0)
    early = Session("early", (turn([1, 2, 3]), turn([1, 2, 3, 4])), start_s=0.0)
    trace = Trace("test", "", BLOCK_TOKENS, (late, early))
    assert reuse(trace.sessions).hits == ((2,), (0, 3))
    assert infinite_cache_hit_rate(trace) == (2 + 3) * BLOCK_TOKENS / (10 * BLOCK_TOKENS + 1)
    assert infinite_cache_hit_rate(Trace("test", "", BLOCK_TOKENS, ())) == 0.0


@given(related_sessions())
def test_the_infinite_cache_counts_every_token_once(related):
    input_tokens = sum(t.input_tokens for s in related for t in s.turns)
    hit_tokens = sum(hit * BLOCK_TOKENS for hits in reuse(related).hits for hit in hits)
    rate = infinite_cache_hit_rate(Trace("test", "", BLOCK_TOKENS, related))
    assert rate == pytest.approx(hit_tokens / input_tokens)
    assert 0 <= rate <= 1
