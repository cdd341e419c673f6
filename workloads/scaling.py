"""Longer or shorter appends and outputs for any trace, as in the paper's sweeps of both (section 7).

Each turn continues a context: that of the earlier turn of its session with which its prompt has the
longest beginning in common, usually the turn before it. Seen so, a prompt is

- what it keeps of that context: the common blocks, or all of it where the prompt only adds to it;
- what it restates: where a prompt is no shorter than the one it continues but leaves its context (as in
  traces that do not name the blocks of outputs), its tokens up to that context's length;
- what it appends: the rest.

Appended and generated tokens are scaled. Kept and restated ones keep their place in the context, wherever
scaling has moved it. A prompt that continues nothing, as a session's first, stays as it is. Kept blocks
stay common and all others get new ids, so that a compaction and a return to an earlier context reuse
what they did.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import itemgetter

import numpy as np

from workloads.blocks import as_prefixes
from workloads.formats import canonical
from workloads.prefix import common_prefix_blocks, hit_blocks, hit_rate, reuse
from workloads.trace import BlockIds, Session, Trace, TraceError, Turn

_NO_TURN_IS_LONGER_TOKENS = 1 << 40
"""Bound that keeps sums of scaled tokens within 64 bits; a MAL cuts far below it."""


def scale_trace(
    trace: Trace, append_scale: float, generated_scale: float, max_agent_tokens: int | None
) -> Trace:
    """The trace with ``append_scale`` times the appended and ``generated_scale`` times the generated tokens
    of every turn (none but 0 becomes 0), block ids numbered anew from 0.

    A session ends before the turn that would pass ``max_agent_tokens`` (the paper's MAL; None: no limit),
    and is left out if its first turn does. Scales of 1 keep the block ids, and without a limit the trace.
    The provenance tells the hit rate (``prefix.hit_rate``) before and after. ``TraceError`` if the scales
    or the limit are impossible, if no session is left, or if scales other than 1 meet sessions that share
    blocks: scaled apart, what they have in common would no longer be the same.
    """
    _check(append_scale, generated_scale, max_agent_tokens)
    rescaled = (append_scale, generated_scale) != (1, 1)
    if not rescaled and max_agent_tokens is None:
        return trace
    if rescaled and reuse(trace.sessions).shared:
        raise TraceError.at(
            f"trace {trace.sha256[:16]}",
            found=f"sessions that share blocks, and scales {append_scale} and {generated_scale}",
            expected="scales of 1 for such a trace",
            fix="leave the scales out, or choose a trace with block ids of each session's own",
        )
    limit = _NO_TURN_IS_LONGER_TOKENS if max_agent_tokens is None else max_agent_tokens
    sessions, next_id = [], 0
    for session in trace.sessions:
        if rescaled:
            turns, next_id = _scaled_turns(
                session, trace.block_tokens, append_scale, generated_scale, limit, next_id
            )
        else:
            turns = _fitting(session.turns, limit)
        if turns:
            sessions.append(replace(session, turns=turns))
    if not sessions:
        raise TraceError.at(
            f"trace {trace.sha256[:16]}",
            found=f"no session whose first turn fits into {max_agent_tokens} tokens",
            expected="at least 1",
            fix="raise max_agent_tokens",
        )
    change = f"appends x {append_scale}, outputs x {generated_scale}, at most {max_agent_tokens} tokens"
    return _with_provenance(trace, tuple(sessions), change)


def scaled_tokens(tokens: int, scale: float) -> int:
    """``tokens * scale``, rounded; only 0 becomes 0."""
    return max(min(tokens, 1), round(min(tokens * scale, _NO_TURN_IS_LONGER_TOKENS)))


@dataclass(frozen=True, slots=True)
class _Context:
    """All tokens of a turn's prompt and output. Recorded position ``bends[i][0]`` is at ``bends[i][1]`` of
    the scaled form, positions in between lie evenly; from (0, 0) to the ends of both."""

    prompt_tokens: int
    ids: BlockIds
    scaled_ids: BlockIds
    bends: tuple[tuple[int, int], ...]

    def scaled(self, position: int) -> int:
        """Where a recorded position is in the scaled form, rounded down."""
        index = bisect_left(self.bends, position, key=itemgetter(0))
        end, scaled_end = self.bends[index]
        if end == position:
            return scaled_end
        begin, scaled_begin = self.bends[index - 1]
        return scaled_begin + (position - begin) * (scaled_end - scaled_begin) // (end - begin)


_NO_BLOCKS: BlockIds = np.empty(0, dtype=np.int64)
_NOTHING = _Context(0, _NO_BLOCKS, _NO_BLOCKS, ((0, 0),))


def _scaled_turns(
    session: Session,
    block_tokens: int,
    append_scale: float,
    generated_scale: float,
    max_agent_tokens: int,
    first_block_id: int,
) -> tuple[tuple[Turn, ...], int]:
    """The turns that fit, with ids from ``first_block_id`` on, and the first id left free."""
    latest: dict[int, _Context] = {}
    turns: list[Turn] = []
    next_id = first_block_id
    for turn, hit in zip(session.turns, hit_blocks(session), strict=True):
        # A block names all content before it: who has the last hit block has the whole hit.
        before = latest[int(turn.block_ids[hit - 1])] if hit else _NOTHING
        kept, restated_to = _continuation(before, turn, block_tokens)
        begin, appended = before.scaled(restated_to), turn.input_tokens - restated_to
        input_tokens = begin + (scaled_tokens(appended, append_scale) if hit else appended)
        output_tokens = scaled_tokens(turn.output_tokens, generated_scale)
        end = input_tokens + output_tokens
        if end > max_agent_tokens:
            break
        kept_ids = before.scaled_ids[: before.scaled(kept) // block_tokens]
        new_blocks = end // block_tokens - len(kept_ids)
        scaled_ids = np.concatenate((kept_ids, np.arange(next_id, next_id + new_blocks)))
        next_id += new_blocks
        context = _Context(
            turn.input_tokens,
            np.concatenate((turn.block_ids, turn.generated_block_ids)),
            scaled_ids,
            _bends(
                before,
                (restated_to, begin),
                (turn.input_tokens, input_tokens),
                (turn.input_tokens + turn.output_tokens, end),
            ),
        )
        latest.update(dict.fromkeys(context.ids.tolist(), context))
        prompt_blocks = input_tokens // block_tokens
        turns.append(
            replace(
                turn,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                block_ids=scaled_ids[:prompt_blocks],
                generated_block_ids=scaled_ids[prompt_blocks:].copy(),
            )
        )
    prompts = as_prefixes([turn.block_ids for turn in turns])
    return tuple(map(_with_prompt, turns, prompts)), next_id


def _continuation(before: _Context, turn: Turn, block_tokens: int) -> tuple[int, int]:
    """Tokens of the context before that the prompt keeps, and up to where it restates it."""
    common = common_prefix_blocks(before.ids, turn.block_ids)
    reach = min(turn.input_tokens, before.bends[-1][0])
    if common == len(before.ids) and reach == before.bends[-1][0]:
        return reach, reach
    kept = common * block_tokens
    return kept, kept if turn.input_tokens < before.prompt_tokens else reach


def _bends(before: _Context, *new: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The bends of the part that is kept or restated, which ends at the first new one, and the new ones."""
    bends = [bend for bend in before.bends if bend[0] < new[0][0]]
    for bend in new:
        if not bends or bend[0] > bends[-1][0]:
            bends.append(bend)
    return tuple(bends)


def _with_prompt(turn: Turn, block_ids: BlockIds) -> Turn:
    return replace(turn, block_ids=block_ids)


def _fitting(turns: Sequence[Turn], max_agent_tokens: int) -> tuple[Turn, ...]:
    return tuple(takewhile(lambda turn: turn.input_tokens + turn.output_tokens <= max_agent_tokens, turns))


def _check(append_scale: float, generated_scale: float, max_agent_tokens: int | None) -> None:
    scales = (append_scale, generated_scale)
    for what, found, valid, expected in (
        ("scales", scales, all(0 < scale < math.inf for scale in scales), "positive, finite numbers"),
        (
            "max_agent_tokens",
            max_agent_tokens,
            max_agent_tokens is None or max_agent_tokens >= 1,
            "1 or more",
        ),
    ):
        if not valid:
            raise TraceError.at(
                f"scaling: {what}", found=str(found), expected=expected, fix="correct the argument"
            )


def _with_provenance(trace: Trace, sessions: tuple[Session, ...], change: str) -> Trace:
    """The changed sessions as a trace of their own identity."""
    scaled = replace(trace, sessions=sessions)
    provenance = {
        **trace.provenance,
        "scaled_from": f"{trace.format} {trace.sha256}",
        "scaling": change,
        "hit_rate_before_scaling": f"{hit_rate(trace):.4f}",
        "hit_rate_after_scaling": f"{hit_rate(scaled):.4f}",
        "sessions_left_out_by_scaling": str(len(trace.sessions) - len(sessions)),
    }
    scaled = replace(scaled, format=canonical.NAME, provenance=provenance)
    return replace(scaled, sha256=canonical.content_sha256(scaled))
