"""The agents of a run: which sessions they replay, and from which turn on.

A run may need more agents than the trace has sessions. Then sessions are sampled again and, as in the
paper's replay (section 7.1), each copy begins with a synthetic round of random tokens and one generated
token. Here the round fills exactly one block, so a copy's prompts grow by exactly one block, and as
all its later blocks follow that one, it shares none with its original.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np

from workloads.blocks import as_prefixes
from workloads.trace import BlockIds, Session, Trace, TraceError, Turn
from workloads.window import ReplayWindow

Start = Literal["beginning", "middle", "random"]


def agents_for(
    trace: Trace, count: int, turns_per_session: int | None, start: Start, seed: int
) -> tuple[ReplayWindow, ...]:
    """A window for each of ``count`` agents, drawn by ``seed``.

    Only sessions of at least ``turns_per_session`` turns are eligible; None replays whole sessions. Each
    is drawn once, in the trace's order, before any is copied; copies of S are ``S+2``, ``S+3`` and so on.
    ``middle`` centres a window in its session, ``random`` draws its position, as for agents that have
    been running for long. ``TraceError`` if no session is eligible.
    """
    if count < 1 or (turns_per_session is not None and turns_per_session < 1):
        raise TraceError.at(
            "agents",
            found=f"{count} agents of {turns_per_session} turns",
            expected="at least 1 of each",
            fix="correct the experiment",
        )
    needed = turns_per_session or 1
    eligible = [session for session in trace.sessions if len(session.turns) >= needed]
    if not eligible:
        raise TraceError.at(
            f"trace {trace.sha256[:16]}",
            found=f"no session of at least {needed} turns among {len(trace.sessions)} "
            f"(the longest has {max((len(s.turns) for s in trace.sessions), default=0)} turns)",
            expected="at least 1",
            fix="ask for fewer turns, or choose a trace of longer sessions",
        )
    rng = np.random.default_rng(seed)
    drawn = sorted(rng.permutation(len(eligible))[:count].tolist())
    sampled = rng.integers(len(eligible), size=count - len(drawn)).tolist()
    sessions = [eligible[index] for index in drawn]
    sessions += _copies([eligible[index] for index in sampled], trace)
    return tuple(_window(session, turns_per_session, start, trace.block_tokens, rng) for session in sessions)


def _copies(originals: list[Session], trace: Trace) -> list[Session]:
    """Copies with block ids above every one of the trace and of the copies before."""
    if not originals:
        return []
    next_id = 1 + max(
        int(ids.max(initial=-1))
        for session in trace.sessions
        for turn in session.turns
        for ids in (turn.block_ids, turn.generated_block_ids)
    )
    numbers: Counter[str] = Counter()
    copies = []
    for original in originals:
        numbers[original.session_id] += 1
        number = 1 + numbers[original.session_id]
        copy, next_id = _copy(original, f"{original.session_id}+{number}", trace.block_tokens, next_id)
        copies.append(copy)
    return copies


def _copy(original: Session, session_id: str, block_tokens: int, round_id: int) -> tuple[Session, int]:
    """The copy, whose synthetic round fills block ``round_id``, and the first id left free."""
    extents = [ids for turn in original.turns for ids in (turn.block_ids, turn.generated_block_ids)]
    distinct, dense = np.unique(np.concatenate(extents), return_inverse=True)
    minted = np.split(dense + (round_id + 1), np.cumsum([len(ids) for ids in extents])[:-1])
    round_ids: BlockIds = np.array([round_id], dtype=np.int64)
    prompts = as_prefixes([np.concatenate((round_ids, ids)) for ids in minted[::2]])
    turns = [Turn(block_tokens - 1, 1, round_ids[:0], round_ids)]
    for turn, block_ids, generated_ids in zip(original.turns, prompts, minted[1::2], strict=True):
        turns.append(
            Turn(
                turn.input_tokens + block_tokens,
                turn.output_tokens,
                block_ids,
                generated_ids.copy(),
                turn.gap_s if len(turns) > 1 else 0.0,
            )
        )
    return replace(original, session_id=session_id, turns=tuple(turns)), round_id + 1 + len(distinct)


def _window(
    session: Session,
    turns_per_session: int | None,
    start: Start,
    block_tokens: int,
    rng: np.random.Generator,
) -> ReplayWindow:
    count = turns_per_session or len(session.turns)
    spare = len(session.turns) - count
    match start:
        case "beginning":
            first = 0
        case "middle":
            first = spare // 2
        case "random":
            first = int(rng.integers(spare + 1))
    return ReplayWindow(session, first, count, block_tokens)
