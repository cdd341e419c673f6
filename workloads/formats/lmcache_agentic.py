"""LMCache's agentic traces: JSON lines, a row a model call with all its chat messages as text.

- Prompts are counted by the tokenizer that the user names, message by message, without the chat template.
- ``input`` is cumulative. The messages that a prompt begins with as the previous one of its session did keep
  their full blocks; all other ids are new, those of the generated blocks too, so an answer that comes back
  as a message is not a hit.
- ``pre_gap`` is seconds before the call. When sessions began is not recorded: all start at 0.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from workloads.formats.minting import WITHOUT_INPUT, Mint, TurnMint
from workloads.formats.source import ParsedFile, Seconds, Tokens, TraceSource, decode_rows, first_row_keys
from workloads.formats.tokenizers import Conversation, Message, Tokenizer
from workloads.trace import Session, Turn

NAME = "lmcache-agentic"
BLOCK_TOKENS = 64
"""Of the minted ids; the paper's example (section 4.1)."""

_WITHOUT_GAP = "gaps_missing_counted_as_none"


class _Call(msgspec.Struct, frozen=True):
    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    input: list[Message]
    output_length: Tokens | None = None
    pre_gap: Seconds | None = None


_CALLS = msgspec.json.Decoder(_Call)


def recognises(data: bytes) -> bool:
    """The first row has a session and its messages."""
    return first_row_keys(data) >= {"session_id", "input"}


def parse(source: TraceSource, mint: Mint, tokenizer: Tokenizer) -> ParsedFile:
    """Sessions in the order of their first rows."""
    sessions_calls: dict[str, list[_Call]] = {}
    for _, call in decode_rows(_CALLS, source):
        sessions_calls.setdefault(call.session_id, []).append(call)
    minting = TurnMint(mint, BLOCK_TOKENS)
    sessions = [
        Session(session_id, _turns(calls, minting, tokenizer)) for session_id, calls in sessions_calls.items()
    ]
    return ParsedFile(
        BLOCK_TOKENS,
        tuple(session for session in sessions if session.turns),
        {"starts": "not recorded: all sessions start at 0"},
        dict(+minting.counts),
        tokenizer.name,
    )


def _turns(calls: list[_Call], minting: TurnMint, tokenizer: Tokenizer) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    conversation = Conversation(tokenizer)
    for call in calls:
        input_tokens, shared_tokens = conversation.prompt(call.input)
        if input_tokens == 0:
            minting.counts[WITHOUT_INPUT] += 1
            continue
        before = turns[-1] if turns else None
        prompt = minting.grown_prompt(before, shared_tokens, input_tokens)
        minting.counts[_WITHOUT_GAP] += before is not None and call.pre_gap is None
        gap_s = (call.pre_gap or 0.0) if before else 0.0
        turns.append(minting.turn(prompt, input_tokens, call.output_length, gap_s))
    return tuple(turns)
