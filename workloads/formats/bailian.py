"""Qwen Bailian traces: JSON lines, a row a chat request, chats chained by ``parent_chat_id``.

- ``hash_ids`` are of 16-token blocks and global; the last may be partly filled and is dropped then.
- A chain of chats from a root (parent -1) is a session, named by its first chat. If several chats have one
  parent, the first continues its session; the others begin sessions whose parent session it is.
- Only arrivals are recorded, in seconds: a gap is the difference of two arrivals and holds the time the
  earlier request took (start to start).
- Generated blocks get ids that never reappear, since none are recorded for them.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from workloads.formats.minting import (
    RECORDED_HIT_RATE,
    WITHOUT_INPUT,
    Mint,
    TurnMint,
    recorded_hit_rate,
)
from workloads.formats.source import ParsedFile, Seconds, Tokens, TraceSource, decode_rows, first_row_keys
from workloads.formats.tokenizers import Tokenizer
from workloads.trace import Session, TraceError, Turn

NAME = "bailian"
BLOCK_TOKENS = 16

_ROOT = -1
_PARENT_MISSING = "chats_whose_parent_is_missing"
_BRANCHES = "branches_made_sessions"


class _Chat(msgspec.Struct, frozen=True):
    chat_id: int
    timestamp: Seconds
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[int]
    parent_chat_id: int = _ROOT


_CHATS = msgspec.json.Decoder(_Chat)
_Located = tuple[str, _Chat]


def recognises(data: bytes) -> bool:
    """The first row names its chat and the chat before it."""
    return first_row_keys(data) >= {"chat_id", "parent_chat_id"}


def parse(source: TraceSource, mint: Mint, _tokenizer: Tokenizer) -> ParsedFile:
    """Sessions in the order of their first arrival."""
    rows = [(f"{source.path}:{number}", chat) for number, chat in decode_rows(_CHATS, source)]
    rows.sort(key=lambda row: row[1].timestamp)
    minting = TurnMint(mint, BLOCK_TOKENS)
    minting.counts[WITHOUT_INPUT] = sum(chat.input_length == 0 for _, chat in rows)
    rows = [row for row in rows if row[1].input_length]
    chains, parents = _chains(rows, minting.counts)
    sessions = tuple(
        Session(str(name), _turns(chain, minting), chain[0][1].timestamp, _name(parents[name]))
        for name, chain in chains.items()
    )
    rate = recorded_hit_rate(((chat.hash_ids, chat.input_length) for _, chat in rows), BLOCK_TOKENS)
    provenance = {"gaps": "start to start: ends are not recorded", RECORDED_HIT_RATE: f"{rate:.4f}"}
    return ParsedFile(BLOCK_TOKENS, sessions, provenance, dict(+minting.counts))


def _chains(
    rows: list[_Located], counts: Counter[str]
) -> tuple[dict[int, list[_Located]], dict[int, int | None]]:
    """Chats by the first chat of their session, and every session's parent session; rows by arrival."""
    chains: dict[int, list[_Located]] = {}
    parents: dict[int, int | None] = {}
    session_of: dict[int, int] = {}
    for where, chat in rows:
        if chat.chat_id in session_of:
            raise TraceError.at(
                f"{where}: $.chat_id",
                found=f"{chat.chat_id} again",
                expected="chat ids that occur once",
                fix="the file is damaged or two in one: fetch it again",
            )
        parent_session = session_of.get(chat.parent_chat_id)
        if parent_session is not None and chains[parent_session][-1][1].chat_id == chat.parent_chat_id:
            session = parent_session
        else:
            session = chat.chat_id
            chains[session], parents[session] = [], parent_session
            counts[_BRANCHES] += parent_session is not None
            counts[_PARENT_MISSING] += parent_session is None and chat.parent_chat_id != _ROOT
        chains[session].append((where, chat))
        session_of[chat.chat_id] = session
    return chains, parents


def _turns(chain: list[_Located], minting: TurnMint) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    arrival_s = chain[0][1].timestamp
    for where, chat in chain:
        prompt = minting.recorded_prompt(chat.hash_ids, chat.input_length, where)
        gap_s = chat.timestamp - arrival_s
        turns.append(minting.turn(prompt, chat.input_length, chat.output_length, gap_s))
        arrival_s = chat.timestamp
    return tuple(turns)


def _name(session: int | None) -> str | None:
    return None if session is None else str(session)
