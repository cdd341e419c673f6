"""kv-cache-tester ("Weka") traces: one JSON object a recorded coding-agent conversation.

What the files hold, and what is made of it:

- ``hash_ids`` names each request's full blocks, ``in // block_size`` of them, by ids local to the file.
  Every session gets its own ids here, since hits never cross sessions.
- A sub-agent is a session of its own, named ``conversation/agent``. Its entry's ``t`` is when it
  finished: ``t - duration_ms`` falls on the end of the parent request that launched it. Its inner
  times restart at 0 in some copies and count from the conversation's start in others.
- ``think_time`` is the gap before a request. Missing: from ``t`` and the previous ``api_time``;
  that missing too: the whole difference of ``t``, which then includes the previous request.
- Recorded prompts do not repeat a block of the previous output under an id that could be known while
  it is generated, so generated blocks get ids of their own that never reappear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import numpy as np

from workloads.formats.minting import WITHOUT_INPUT, Mint, TurnMint
from workloads.formats.source import (
    BlockId,
    BlockTokens,
    ParsedFile,
    Seconds,
    Tokens,
    TraceSource,
    decode,
)
from workloads.formats.tokenizers import Tokenizer
from workloads.trace import Session, TraceError, Turn

NAME = "kv-cache-tester"

_ABSOLUTE_TIME_SLACK_S = 1.0
_GAP_FROM_TIMES = "gaps_from_request_times"
_EMPTY_SESSIONS = "sessions_without_requests_dropped"
_SUB_AGENTS = "sub_agent_sessions"


class _Request(msgspec.Struct, frozen=True, tag_field="type", tag="n"):
    t: Seconds
    input_tokens: Tokens = msgspec.field(name="in")
    output_tokens: Tokens = msgspec.field(name="out")
    hash_ids: list[BlockId]
    think_time: Seconds | None = None
    api_time: Seconds | None = None


class _StreamedRequest(_Request, frozen=True, tag="s"):
    pass


class _SubAgent(msgspec.Struct, frozen=True, tag_field="type", tag="subagent"):
    t: Seconds
    requests: list[_Request | _StreamedRequest | _SubAgent]
    agent_id: str = ""
    duration_ms: Seconds | None = None


class _Conversation(msgspec.Struct, frozen=True):
    block_size: BlockTokens
    requests: list[_Request | _StreamedRequest | _SubAgent]
    id: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    hash_id_scope: Literal["local"] = "local"


_CONVERSATIONS = msgspec.json.Decoder(_Conversation)
_Entries = list[_Request | _StreamedRequest | _SubAgent]


def recognises(data: bytes) -> bool:
    """An object with a ``requests`` key; the other public formats have a row a request."""
    return data.lstrip().startswith(b"{") and b'"requests"' in data


def parse(source: TraceSource, mint: Mint, _tokenizer: Tokenizer) -> ParsedFile:
    """The conversation's own session, then its sub-agents' in the order of the file."""
    conversation = decode(_CONVERSATIONS, source.data, source.path)
    session_id = conversation.id or source.path.name.partition(".")[0]
    minting = TurnMint(mint, conversation.block_size)
    counts = minting.counts
    sessions: list[Session] = []
    recorded = _recorded_sessions(conversation.requests, session_id, None, "$.requests", 0.0)
    for name, parent, start_s, key_path, requests in recorded:
        _check_requests(requests, f"{source.path}: {key_path}", conversation.block_size)
        kept = [request for _, request in requests if request.input_tokens]
        counts[WITHOUT_INPUT] += len(requests) - len(kept)
        counts[_SUB_AGENTS] += parent is not None
        if not kept:
            counts[_EMPTY_SESSIONS] += 1
            continue
        sessions.append(Session(name, _turns(kept, mint, minting), start_s, parent))
    return ParsedFile(conversation.block_size, tuple(sessions), {}, dict(+counts))


_Recorded = tuple[str, str | None, float, str, list[tuple[int, _Request]]]


def _recorded_sessions(
    entries: _Entries, session_id: str, parent: str | None, key_path: str, offset_s: float
) -> Iterator[_Recorded]:
    """``(id, parent, start_s, key path, [(index, request)])`` of a session, then of its sub-agents.

    ``offset_s`` is what the entries' times lack to count from the conversation's start.
    """
    requests = [(index, entry) for index, entry in enumerate(entries) if isinstance(entry, _Request)]
    start_s = offset_s + (requests[0][1].t if requests else 0.0)
    yield session_id, parent, start_s, key_path, requests
    for index, entry in enumerate(entries):
        if isinstance(entry, _SubAgent):
            launched_s = max(0.0, offset_s + entry.t - (entry.duration_ms or 0.0) / 1000)
            absolute = entry.requests and entry.requests[0].t >= launched_s - _ABSOLUTE_TIME_SLACK_S
            yield from _recorded_sessions(
                entry.requests,
                f"{session_id}/{entry.agent_id or f'agent_{index}'}",
                session_id,
                f"{key_path}[{index}].requests",
                0.0 if absolute else launched_s,
            )


def _check_requests(requests: list[tuple[int, _Request]], where: str, block_tokens: int) -> None:
    for index, request in requests:
        expected = request.input_tokens // block_tokens
        if len(request.hash_ids) != expected:
            raise TraceError.at(
                f"{where}[{index}].hash_ids",
                found=f"{len(request.hash_ids)} ids",
                expected=f"{expected}, which {request.input_tokens} tokens fill at {block_tokens} a block",
                fix="the file is damaged: fetch it again",
            )


def _turns(requests: list[_Request], mint: Mint, minting: TurnMint) -> tuple[Turn, ...]:
    """A session's turns; its recorded ids are renumbered at once, as arrays."""
    lengths = [len(request.hash_ids) for request in requests]
    recorded = np.fromiter((i for r in requests for i in r.hash_ids), dtype=np.int64, count=sum(lengths))
    distinct, dense = np.unique(recorded, return_inverse=True)
    prompts = np.split(mint.fresh(len(distinct))[dense], np.cumsum(lengths)[:-1])
    gaps_s = [0.0, *(_gap_s(before, request, minting.counts) for before, request in pairwise(requests))]
    return tuple(
        minting.turn(prompt, request.input_tokens, request.output_tokens, gap_s)
        for request, prompt, gap_s in zip(requests, prompts, gaps_s, strict=True)
    )


def _gap_s(before: _Request, request: _Request, counts: Counter[str]) -> float:
    if request.think_time is not None:
        return request.think_time
    counts[_GAP_FROM_TIMES] += 1
    return max(0.0, request.t - before.t - (before.api_time or 0.0))
