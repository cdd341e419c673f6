"""TraceLab traces (UW SyFI): JSON lines, a row a round of a coding agent with its real tool latencies.

- ``prefix_tokens`` of a round's prompt were served from the provider's cache, ``newly_append_tokens`` were
  not. No block ids are recorded, so they are minted: a prompt keeps that prefix of the session's previous
  context (prompt and output), in full blocks, and goes on with new ids. A prefix that is shorter than the
  previous prompt is a compaction or a miss of the provider's cache; the file does not tell which.
- A session's first prefix comes from other sessions. They are not known, so its ids are new too.
- A round arrives with its last user message or tool result and ends with its last other event; the gap runs
  from the end of the round before to the arrival. Without these times it is the longest tool latency of
  the round before.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated

import msgspec

from workloads.formats.minting import WITHOUT_INPUT, Mint, TurnMint
from workloads.formats.source import ParsedFile, Tokens, TraceSource, decode_rows, first_row_keys
from workloads.formats.tokenizers import Tokenizer
from workloads.trace import Session, Turn

NAME = "tracelab"
BLOCK_TOKENS = 64
"""Of the minted ids; the paper's example (section 4.1)."""

_INPUT_EVENTS = frozenset({"user_message", "tool_result"})
_MISMATCH = "rounds_whose_split_does_not_add_up"
_WITHOUT_SPLIT = "rounds_without_split_counted_as_new"
_SHORTER_PREFIX = "rounds_that_keep_less_than_the_previous_prompt"
_GAP_FROM_TOOLS = "gaps_from_tool_latencies"
_WITHOUT_GAP = "gaps_missing_counted_as_none"

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class _Event(msgspec.Struct, frozen=True):
    event_type: str
    timestamp: _Instant | None = None


class _Tool(msgspec.Struct, frozen=True):
    tool_wall_latency_ms: float | None = None


class _Round(msgspec.Struct, frozen=True):
    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    round_index: int
    input_tokens_total: Tokens | None = None
    prefix_tokens: Tokens | None = None
    newly_append_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    timing_events: list[_Event] | None = None
    tools: list[_Tool] | None = None


_ROUNDS = msgspec.json.Decoder(_Round)


def recognises(data: bytes) -> bool:
    """The first row is a numbered round of a session."""
    return first_row_keys(data) >= {"session_id", "round_index"}


def parse(source: TraceSource, mint: Mint, _tokenizer: Tokenizer) -> ParsedFile:
    """Sessions in the order of their first rows; the earliest arrival in the file is time 0."""
    sessions_rounds: dict[str, list[_Round]] = {}
    for _, row in decode_rows(_ROUNDS, source):
        sessions_rounds.setdefault(row.session_id, []).append(row)
    minting = TurnMint(mint, BLOCK_TOKENS)
    sessions: list[tuple[str, tuple[Turn, ...], datetime | None]] = []
    for session_id, rounds in sessions_rounds.items():
        kept = [row for row in sorted(rounds, key=lambda row: row.round_index) if _input_tokens(row)]
        minting.counts[WITHOUT_INPUT] += len(rounds) - len(kept)
        if kept:
            sessions.append((session_id, _turns(kept, minting), _arrival(kept[0])))
    origin = min((start for *_, start in sessions if start is not None), default=None)
    return ParsedFile(
        BLOCK_TOKENS,
        tuple(
            Session(session_id, turns, (start - origin).total_seconds() if start and origin else 0.0)
            for session_id, turns, start in sessions
        ),
        {},
        dict(+minting.counts),
    )


def _turns(rounds: list[_Round], minting: TurnMint) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for index, row in enumerate(rounds):
        input_tokens, prefix_tokens = _input_tokens(row), _prefix_tokens(row, minting.counts)
        before = turns[-1] if turns else None
        prompt = minting.grown_prompt(before, prefix_tokens, input_tokens)
        if before is not None:
            full_blocks = len(before.block_ids) * BLOCK_TOKENS
            minting.counts[_SHORTER_PREFIX] += prefix_tokens < full_blocks
        gap_s = _gap_s(rounds[index - 1], row, minting.counts) if index else 0.0
        turns.append(minting.turn(prompt, input_tokens, row.output_tokens, gap_s))
    return tuple(turns)


def _input_tokens(row: _Round) -> int:
    if row.input_tokens_total is not None:
        return row.input_tokens_total
    return (row.prefix_tokens or 0) + (row.newly_append_tokens or 0)


def _prefix_tokens(row: _Round, counts: Counter[str]) -> int:
    total = _input_tokens(row)
    if row.prefix_tokens is None and row.newly_append_tokens is None:
        counts[_WITHOUT_SPLIT] += 1
        return 0
    if row.prefix_tokens is None:
        return max(0, total - (row.newly_append_tokens or 0))
    append = total - row.prefix_tokens
    counts[_MISMATCH] += append < 0 or row.newly_append_tokens not in (None, append)
    return row.prefix_tokens


def _gap_s(before: _Round, row: _Round, counts: Counter[str]) -> float:
    end, arrival = _end(before), _arrival(row)
    if end is not None and arrival is not None:
        return max(0.0, (arrival - end).total_seconds())
    latencies_ms = [tool.tool_wall_latency_ms for tool in before.tools or () if tool.tool_wall_latency_ms]
    counts[_GAP_FROM_TOOLS if latencies_ms else _WITHOUT_GAP] += 1
    return max(0.0, *latencies_ms) / 1000 if latencies_ms else 0.0


def _arrival(row: _Round) -> datetime | None:
    return max(_times(row, inputs=True), default=None) or min(_times(row, inputs=False), default=None)


def _end(row: _Round) -> datetime | None:
    return max(_times(row, inputs=False), default=None) or max(_times(row, inputs=True), default=None)


def _times(row: _Round, *, inputs: bool) -> list[datetime]:
    return [
        event.timestamp
        for event in row.timing_events or ()
        if event.timestamp is not None and (event.event_type in _INPUT_EVENTS) == inputs
    ]
