"""Mooncake traces (FAST'25) and AIPerf's superset of them: JSON lines, a row a request.

- A FAST'25 row has ``timestamp`` ms, ``input_length``, ``output_length`` and ``hash_ids`` of 512-token
  blocks, the last of which may be partly filled: its id is dropped. Ids are global: the same id is the same
  content after the same prefix, whoever sends it. Rows name no session; each is one of a single turn.
- AIPerf adds ``text_input`` and ``messages`` in place of ``input_length``, and ``session_id`` with ``delay``,
  ms from the end of the session's previous turn. Without ``delay`` the gap is the difference of timestamps,
  start to start.
- Within a session, rows with ``hash_ids``, ``messages`` or the ``context_mode`` of whole messages carry the
  whole prompt. All others, and ``message_mode`` "delta", carry what is new, as AIPerf replays them: the
  prompt is the previous turn's context and the row.
- Rows without ``hash_ids`` get new ids: of the previous turn's context they keep what the row repeats.
  Generated blocks of rows with ``hash_ids`` get ids that never reappear, since none are recorded for them.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import msgspec

from workloads.formats.minting import (
    RECORDED_HIT_RATE,
    WITHOUT_INPUT,
    Mint,
    TurnMint,
    recorded_hit_rate,
)
from workloads.formats.source import (
    MAX_SECONDS,
    MAX_TOKENS,
    ParsedFile,
    Tokens,
    TraceSource,
    decode_rows,
    first_row_keys,
)
from workloads.formats.tokenizers import Conversation, Message, Tokenizer, message_text
from workloads.trace import Session, TraceError, Turn

NAME = "mooncake"
BLOCK_TOKENS = 512

_INPUTS = frozenset({"input_length", "text_input", "messages"})
_WITHOUT_START = "sessions_without_start_time"
_START_TO_START = "gaps_from_timestamps_start_to_start"
_WITHOUT_GAP = "gaps_missing_counted_as_none"

_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1000 * MAX_SECONDS)]


class _Row(msgspec.Struct, frozen=True):
    input_length: Tokens | None = None
    text_input: str | None = None
    messages: list[Message] | None = None
    output_length: Tokens | None = None
    hash_ids: list[int] | None = None
    timestamp: _Milliseconds | None = None
    delay: _Milliseconds | None = None
    session_id: str | None = None
    message_mode: Literal["history", "delta"] = "history"
    context_mode: str | None = None


_ROWS = msgspec.json.Decoder(_Row)
_Located = tuple[str, _Row]


def recognises(data: bytes) -> bool:
    """The first row has one of the three inputs, and no chat id, which is Bailian's."""
    keys = first_row_keys(data)
    return bool(keys & _INPUTS) and "chat_id" not in keys


def parse(source: TraceSource, mint: Mint, tokenizer: Tokenizer) -> ParsedFile:
    """Sessions in the order of their first rows; a row without session id is named ``file/line``."""
    sessions_rows: dict[str, list[_Located]] = {}
    file_name = source.path.name.partition(".")[0]
    for number, row in decode_rows(_ROWS, source):
        name = row.session_id or f"{file_name}/{number}"
        sessions_rows.setdefault(name, []).append((f"{source.path}:{number}", row))
    minting = TurnMint(mint, BLOCK_TOKENS)
    sessions = [_session(name, rows, minting, tokenizer) for name, rows in sessions_rows.items()]
    all_rows = [row for rows in sessions_rows.values() for _, row in rows]
    return ParsedFile(
        BLOCK_TOKENS,
        tuple(session for session in sessions if session.turns),
        _recorded_hit_rate(all_rows),
        dict(+minting.counts),
        tokenizer.name if any(row.input_length is None for row in all_rows) else None,
    )


def _recorded_hit_rate(rows: list[_Row]) -> dict[str, str]:
    recorded = [
        (row.timestamp or 0.0, row.hash_ids, row.input_length)
        for row in rows
        if row.hash_ids is not None and row.input_length is not None
    ]
    if not recorded:
        return {}
    recorded.sort(key=lambda request: request[0])
    rate = recorded_hit_rate(((ids, tokens) for _, ids, tokens in recorded), BLOCK_TOKENS)
    return {RECORDED_HIT_RATE: f"{rate:.4f}"}


def _session(name: str, rows: list[_Located], minting: TurnMint, tokenizer: Tokenizer) -> Session:
    turns: list[Turn] = []
    start_s: float | None = None
    before: _Row | None = None
    conversation = Conversation(tokenizer)
    for where, row in rows:
        last = turns[-1] if turns else None
        input_tokens, kept_tokens = _prompt_tokens(row, last, tokenizer, conversation, where)
        if input_tokens == 0:
            minting.counts[WITHOUT_INPUT] += 1
            continue
        if row.hash_ids is not None:
            prompt = minting.recorded_prompt(row.hash_ids, input_tokens, where)
        else:
            prompt = minting.grown_prompt(last, kept_tokens, input_tokens)
        gap_s = _gap_s(before, row, minting.counts) if before else 0.0
        turns.append(minting.turn(prompt, input_tokens, row.output_length, gap_s))
        if before is None and row.timestamp is not None:
            start_s = row.timestamp / 1000
        before = row
    minting.counts[_WITHOUT_START] += bool(turns) and start_s is None
    return Session(name, tuple(turns), start_s or 0.0)


def _prompt_tokens(
    row: _Row, last: Turn | None, tokenizer: Tokenizer, conversation: Conversation, where: str
) -> tuple[int, int]:
    """Tokens of a row's prompt, and how many of them the last turn's context begins with."""
    if row.messages is not None and row.message_mode == "history":
        return conversation.prompt(row.messages)
    context = last.input_tokens + last.output_tokens if last else 0
    tokens = _own_tokens(row, tokenizer, where)
    if row.hash_ids is None and row.context_mode != "message_array_with_responses":
        tokens += context
    if tokens > MAX_TOKENS:
        raise TraceError.at(
            where,
            found=f"a prompt of {tokens} tokens",
            expected=f"at most {MAX_TOKENS}",
            fix="split the session or leave it out",
        )
    return tokens, context


def _own_tokens(row: _Row, tokenizer: Tokenizer, where: str) -> int:
    """The tokens that the row itself brings."""
    if row.input_length is not None:
        return row.input_length
    if row.text_input is not None:
        return tokenizer.count(row.text_input)
    if row.messages is not None:
        return sum(tokenizer.count(message_text(message)) for message in row.messages)
    raise TraceError.at(
        where,
        found="a request without input",
        expected="one of input_length, text_input and messages",
        fix="correct the row or leave it out",
    )


def _gap_s(before: _Row, row: _Row, counts: Counter[str]) -> float:
    if row.delay is not None:
        return row.delay / 1000
    if row.timestamp is not None and before.timestamp is not None:
        counts[_START_TO_START] += 1
        return max(0.0, row.timestamp - before.timestamp) / 1000
    counts[_WITHOUT_GAP] += 1
    return 0.0
