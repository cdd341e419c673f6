"""Random sessions that grow, shrink, leave a prefix and come back to it."""

import numpy as np
from hypothesis import strategies as st

from workloads.trace import Session, Trace, Turn
from workloads.window import ReplayWindow

BLOCK_TOKENS = 4


def ids(values):
    return np.array(values, dtype=np.int64)


@st.composite
def sessions(draw, max_turns=8, session_id="session/0"):
    turns, contexts, next_id = [], [[]], 0
    for _ in range(draw(st.integers(1, max_turns))):
        context = draw(st.sampled_from(contexts))
        prompt = context[: draw(st.integers(0, len(context)))]
        for _ in range(draw(st.integers(0, 2))):
            fresh = draw(st.integers(0, 3))
            prompt = prompt + list(range(next_id, next_id + fresh))
            next_id += fresh
            if draw(st.booleans()):
                prompt = prompt + [block for block in context if block not in prompt][:3]
        input_tokens = max(1, len(prompt) * BLOCK_TOKENS + draw(st.integers(0, BLOCK_TOKENS - 1)))
        output_tokens = draw(st.integers(1, 4 * BLOCK_TOKENS))
        filled = (input_tokens + output_tokens) // BLOCK_TOKENS - len(prompt)
        generated = list(range(next_id, next_id + filled))
        next_id += filled
        gap_s = draw(st.floats(0, 1000))
        turns.append(Turn(input_tokens, output_tokens, ids(prompt), ids(generated), gap_s))
        contexts.append(prompt + generated)
    return Session(session_id, tuple(turns), draw(st.floats(0, 1e6)))


@st.composite
def windows(draw, session_id="session/0"):
    session = draw(sessions(session_id=session_id))
    first = draw(st.integers(0, len(session.turns) - 1))
    return ReplayWindow(session, first, draw(st.integers(1, len(session.turns) - first)), BLOCK_TOKENS)


@st.composite
def related_sessions(draw, min_sessions=1, max_sessions=4, max_turns=5):
    """Sessions with global ids that are chained: each prompt continues any context made so far, of any of
    the sessions, so that prompts, outputs and instants coincide."""
    contexts, made, next_id = [((), 0)], [], 0
    for number in range(draw(st.integers(min_sessions, max_sessions))):
        turns = []
        for _ in range(draw(st.integers(1, max_turns))):
            context, tokens = draw(st.sampled_from(contexts))
            kept_tokens = draw(st.sampled_from((tokens, draw(st.integers(0, tokens)))))
            kept = context[: kept_tokens // BLOCK_TOKENS]
            input_tokens = max(1, kept_tokens + draw(st.integers(0, 4 * BLOCK_TOKENS)))
            end = input_tokens + draw(st.integers(1, 3 * BLOCK_TOKENS))
            fresh = end // BLOCK_TOKENS - len(kept)
            blocks = (*kept, *range(next_id, next_id + fresh))
            next_id += fresh
            prompt = input_tokens // BLOCK_TOKENS
            gap_s = float(draw(st.integers(0, 3)))
            turns.append(
                Turn(input_tokens, end - input_tokens, ids(blocks[:prompt]), ids(blocks[prompt:]), gap_s)
            )
            contexts.append((blocks, end))
        made.append(Session(f"s{number}", tuple(turns), float(draw(st.integers(0, 5)))))
    return tuple(made)


@st.composite
def related_windows(draw):
    chosen = []
    for session in draw(related_sessions()):
        first = draw(st.integers(0, len(session.turns) - 1))
        count = draw(st.integers(1, len(session.turns) - first))
        chosen.append(ReplayWindow(session, first, count, BLOCK_TOKENS))
    return tuple(chosen)


@st.composite
def traces(draw):
    count = draw(st.integers(1, 3))
    return Trace(
        "dualpath-trace",
        "",
        BLOCK_TOKENS,
        tuple(draw(sessions(session_id=f"s{index}")) for index in range(count)),
        draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
    )


def blocks_of(session):
    """Every block id of a session."""
    return {
        block
        for turn in session.turns
        for ids in (turn.block_ids, turn.generated_block_ids)
        for block in ids.tolist()
    }


@st.composite
def shared_traces(draw):
    return Trace("dualpath-trace", "", BLOCK_TOKENS, draw(related_sessions()), {})


def same_sessions(a, b):
    """Equality that arrays do not give dataclasses."""
    return len(a) == len(b) and all(
        (x.session_id, x.start_s, x.parent_session_id) == (y.session_id, y.start_s, y.parent_session_id)
        and len(x.turns) == len(y.turns)
        and all(
            (t.input_tokens, t.output_tokens, t.gap_s) == (u.input_tokens, u.output_tokens, u.gap_s)
            and np.array_equal(t.block_ids, u.block_ids)
            and np.array_equal(t.generated_block_ids, u.generated_block_ids)
            for t, u in zip(x.turns, y.turns, strict=True)
        )
        for x, y in zip(a, b, strict=True)
    )
