"""Intra-engine batching (paper 6.2): FIFO packing under a compute quota, with chunked prefill.

Requests join a forward batch in their order while the batch's predicted attention time stays within
the quota. The one that would exceed it is cut: as many of its tokens as still fit, found by binary
search, go now and the rest stays at the head of the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Prompt(Protocol):
    """What waits on an engine: tokens whose KV exists, and those still to be computed."""

    @property
    def cached_tokens(self) -> int:
        """Hit tokens and those that earlier chunks computed."""

    @property
    def remaining_tokens(self) -> int:
        """At least one."""


_P = TypeVar("_P", bound=Prompt)


def pack(
    waiting: Iterable[_P],
    *,
    quota_s: float,
    attention_s: Callable[[int, int], float],
    hbm_tokens: float,
    block_tokens: int,
) -> list[tuple[_P, int]]:
    """The next forward batch of one engine: (prompt, tokens to compute now), in the order of ``waiting``.

    ``attention_s(cached, new)`` is the predicted attention time of a request, growing with ``new``.
    ``hbm_tokens`` bounds the batch's cached and new tokens together. A cut is at a block's end. The
    first prompt always gets at least one block (or its rest), so that nothing waits for ever.
    """
    batch: list[tuple[_P, int]] = []
    left_s, left_tokens = quota_s, hbm_tokens
    for prompt in waiting:
        cached, remaining = prompt.cached_tokens, prompt.remaining_tokens
        within_hbm = int(min(remaining, max(0.0, left_tokens - cached)))
        tokens = _largest(cached, within_hbm, left_s, attention_s)
        if tokens < remaining:
            tokens -= tokens % block_tokens
        if not tokens and not batch:
            tokens = min(remaining, block_tokens)
        if tokens:
            batch.append((prompt, tokens))
            left_s -= attention_s(cached, tokens)
            left_tokens -= cached + tokens
        if tokens < remaining:
            break
    return batch


def _largest(cached: int, limit: int, left_s: float, attention_s: Callable[[int, int], float]) -> int:
    """The most tokens, up to ``limit``, whose attention takes at most ``left_s``; 0 if not even one."""
    if limit and attention_s(cached, limit) <= left_s:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if attention_s(cached, middle) <= left_s:
            low = middle
        else:
            high = middle
    return low
