"""Attention kinds: what one layer of each stores, computes and reads.

Each kind has the same six members, for one layer: ``kv_bytes_per_token`` and
``indexer_bytes_per_token`` (what a cache stores of a token), ``parameters(hidden)``,
``score_flops(context_tokens, append_tokens)``, of which ``index_flops`` are the indexer's, and
``decode_read_bytes(context_tokens)``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Keys and values cached for ``kv_heads``, shared by groups of query heads (GQA).

    With a ``window``, a token sees itself and the ``window - 1`` tokens before it. The cache still stores
    every token: where the next prompt departs from this one is not known when a block is written.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    kv_element_bytes: int
    window: int | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.kv_element_bytes

    @property
    def indexer_bytes_per_token(self) -> int:
        """No indexer."""
        return 0

    def parameters(self, hidden: int) -> int:
        """Q, K, V and output projections."""
        return hidden * self.head_dim * (2 * self.query_heads + 2 * self.kv_heads)

    def score_flops(self, context_tokens: int, append_tokens: int) -> int:
        """Scores and weighted values, 2 FLOPs a multiply-add, over all keys in sight."""
        keys = _seen_keys(context_tokens, append_tokens, self.window)
        return keys * self.query_heads * 2 * (self.head_dim + self.head_dim)

    def index_flops(self, context_tokens: int, append_tokens: int) -> int:
        """No indexer."""
        return 0

    def decode_read_bytes(self, context_tokens: int) -> int:
        """Cached entries that one decode step reads: all of them, or the window's."""
        seen = context_tokens if self.window is None else min(context_tokens, self.window)
        return seen * self.kv_bytes_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """Scores every key in sight with ``heads`` small heads; attention sees the ``top_k`` best (DSA)."""

    heads: int
    dim: int
    top_k: int

    @property
    def bytes_per_token(self) -> int:
        """FP8 index key and its FP32 scale, of one token in one layer."""
        return self.dim + 4

    def parameters(self, hidden: int, q_lora_rank: int) -> int:
        """Query, key and head-weight projections."""
        return (q_lora_rank * self.heads + hidden) * self.dim + hidden * self.heads

    def score_flops(self, context_tokens: int, append_tokens: int) -> int:
        """Scores over all keys in sight."""
        return _seen_keys(context_tokens, append_tokens) * self.heads * 2 * self.dim


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA) over all keys or, with an ``indexer``, over those it picks.

    Counted in latent space, the halves of ``kv_b`` absorbed into query and output: each head scores
    ``kv_lora_rank + rope_dim`` and sums values of ``kv_lora_rank``. An engine that expands cached keys
    instead, as is usual without an indexer, computes less once it appends more than about 170 tokens.
    """

    heads: int
    q_lora_rank: int
    kv_lora_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    indexer: Indexer | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        """FP8 latent, one FP32 scale for each 128 of it, BF16 rotary key; of one token in one layer."""
        return self.kv_lora_rank + 4 * (self.kv_lora_rank // 128) + 2 * self.rope_dim

    @property
    def indexer_bytes_per_token(self) -> int:
        """The indexer's own entry, of one token in one layer."""
        return 0 if self.indexer is None else self.indexer.bytes_per_token

    def parameters(self, hidden: int) -> int:
        """Query, latent, ``kv_b`` and output projections, and the indexer's."""
        query = hidden * self.q_lora_rank + self.q_lora_rank * self.heads * (self.nope_dim + self.rope_dim)
        latent = hidden * (self.kv_lora_rank + self.rope_dim)
        kv_b = self.kv_lora_rank * self.heads * (self.nope_dim + self.value_dim)
        output = self.heads * self.value_dim * hidden
        indexer = 0 if self.indexer is None else self.indexer.parameters(hidden, self.q_lora_rank)
        return query + latent + kv_b + output + indexer

    def score_flops(self, context_tokens: int, append_tokens: int) -> int:
        """The indexer over all keys in sight, then attention over the picked ones."""
        flops_per_key = self.heads * 2 * (2 * self.kv_lora_rank + self.rope_dim)
        if self.indexer is None:
            return _seen_keys(context_tokens, append_tokens) * flops_per_key
        picked = _seen_keys(context_tokens, append_tokens, self.indexer.top_k)
        return self.index_flops(context_tokens, append_tokens) + picked * flops_per_key

    def index_flops(self, context_tokens: int, append_tokens: int) -> int:
        """The indexer's scores, over all keys in sight."""
        return 0 if self.indexer is None else self.indexer.score_flops(context_tokens, append_tokens)

    def decode_read_bytes(self, context_tokens: int) -> int:
        """Cached entries that one decode step reads: all, or every index key and the picked entries."""
        if self.indexer is None:
            return context_tokens * self.kv_bytes_per_token
        picked = min(context_tokens, self.indexer.top_k)
        return context_tokens * self.indexer.bytes_per_token + picked * self.kv_bytes_per_token


Attention = GroupedQueryAttention | LatentAttention


def _seen_keys(context_tokens: int, append_tokens: int, limit: int | None = None) -> int:
    """Keys summed over appended tokens: each sees the context, its predecessors and itself, to ``limit``."""
    growing = append_tokens if limit is None else max(0, min(append_tokens, limit - context_tokens))
    seen = growing * context_tokens + growing * (growing + 1) // 2
    return seen if limit is None else seen + (append_tokens - growing) * limit
