"""The work of attention's kernels, counted: what their times grow with (`hosts.kernel_times`).

Counts are those of `hosts.compute.torch.attention`, which computes a part of a request's rows at a time,
masks included; a test compares them with the FLOPs of the kernels themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from workloads.models import Attention, GroupedQueryAttention, LatentAttention

_WORKING_BYTES = 256 * 1024 * 1024
_BF16_BYTES = 2


class PrefillWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer's attention of a batch that prefills; as seconds: what one of each takes.

    ``token`` are new tokens, all of them and those beyond 128, 256 and 512: products with few rows take as
    long as reading the weights does. ``entry`` are cache entries converted to BF16, ``index_score`` pairs of
    new token and key that the indexer scores, ``score`` pairs that attention does, ``masked_score`` those of
    them that no token sees and a kernel may skip.
    """

    layer: float
    token: float
    token_beyond_128: float
    token_beyond_256: float
    token_beyond_512: float
    request: float
    entry: float
    index_score: float
    score: float
    masked_score: float


class DecodeWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `PrefillWork`, of a batch that decodes: each request has one new token, nothing is masked, and as
    many entries are converted as pairs scored."""

    layer: float
    request: float
    index_score: float
    score: float


class AskingWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer's attention of a batch as the asking thread has it: it loops over requests and, in each, over
    the parts of its rows, of which ``part`` counts those after the first."""

    layer: float
    request: float
    part: float


class _Request(NamedTuple):
    entries: int
    index_scores: int
    scores: int
    masked_scores: int
    parts: int


def prefill_work(kind: Attention, batch: Sequence[tuple[int, int]]) -> PrefillWork:
    """Of requests with (cached, new) tokens."""
    tokens = sum(new for _, new in batch)
    each = [_request(kind, *piece) for piece in batch]
    return PrefillWork(
        layer=1,
        token=tokens,
        token_beyond_128=max(0, tokens - 128),
        token_beyond_256=max(0, tokens - 256),
        token_beyond_512=max(0, tokens - 512),
        request=len(batch),
        entry=sum(r.entries for r in each),
        index_score=sum(r.index_scores for r in each),
        score=sum(r.scores for r in each),
        masked_score=sum(r.masked_scores for r in each),
    )


def decode_work(kind: Attention, contexts: Sequence[int]) -> DecodeWork:
    """Of requests with so many cached tokens."""
    each = [_request(kind, context, 1) for context in contexts]
    return DecodeWork(1, len(each), sum(r.index_scores for r in each), sum(r.scores for r in each))


def asking_work(kind: Attention, batch: Sequence[tuple[int, int]]) -> AskingWork:
    """Of requests with (cached, new) tokens."""
    return AskingWork(1, len(batch), sum(_request(kind, *piece).parts - 1 for piece in batch))


def _request(kind: Attention, cached: int, new: int) -> _Request:
    match kind:
        case GroupedQueryAttention():
            return _grouped(kind, cached, new)
        case LatentAttention():
            return _latent(kind, cached, new)


def _grouped(kind: GroupedQueryAttention, cached: int, new: int) -> _Request:
    """All rows at once, over the keys that any of them sees."""
    keys = cached + new if kind.window is None else min(cached + new, kind.window + new - 1)
    seen = kind.score_flops(cached, new) // kind.score_flops(0, 1)
    return _Request(keys, 0, seen, new * keys - seen, 1)


def _latent(kind: LatentAttention, cached: int, new: int) -> _Request:
    """As many rows at once as there is room for, over the keys that the last of them sees."""
    keys, indexer = cached + new, kind.indexer
    if indexer is None:
        rows = rows_at_once(kind.heads * keys * _BF16_BYTES)
        return _Request(keys, 0, _pairs(cached, new, rows, keys), 0, -(-new // rows))
    picked = min(indexer.top_k, keys)
    entry_bytes = (kind.kv_lora_rank + kind.rope_dim) * _BF16_BYTES
    rows = rows_at_once(max(picked * entry_bytes, indexer.heads * keys * _BF16_BYTES))
    scores = _pairs(cached, new, rows, picked)
    entries = scores if new * picked < keys else keys
    return _Request(entries, _pairs(cached, new, rows, keys), scores, 0, -(-new // rows))


def rows_at_once(row_bytes: int) -> int:
    """Rows whose scores, or gathered entries, are in memory together."""
    return max(1, _WORKING_BYTES // row_bytes)


def _pairs(cached: int, new: int, rows: int, limit: int) -> int:
    """New tokens times keys, ``rows`` tokens at a time: all keys up to the last of them, to ``limit``."""
    whole, rest = divmod(new, rows)
    growing = min(whole, max(0, limit - cached) // rows)
    below = rows * (growing * cached + rows * growing * (growing + 1) // 2)
    return below + (whole - growing) * rows * limit + rest * min(limit, cached + new)
