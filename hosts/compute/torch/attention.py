"""Attention of one layer as a GPU computes it: true shapes, random weights, the loaded KV as it lies in HBM.

Projections are made for the tokens of a whole batch at once, attention for one request after the other. What
is computed is what `workloads.models.attention` counts, and little besides: keys that only some tokens of a
part see are computed for all of it and masked, and the sparse indexer sums its heads by a matrix product
(1 / (indexer dim) of its scores). Dequantizing FP8 entries counts no FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from hosts.compute.torch.weights import weights
from workloads.models import Attention, GroupedQueryAttention, Indexer, LatentAttention

_SCALED = 128  # latent values that share an FP32 scale
_WORKING_BYTES = 256 * 1024 * 1024
"""Scores, or gathered entries, that are in memory at once."""
_WINDOWS_AT_ONCE = 4
"""Queries computed together where attention slides: so many windows of them see one more of keys."""


class AttentionLayer(Protocol):
    """One kind of attention with its weights."""

    def __call__(self, hidden: torch.Tensor, entries: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
        """``hidden`` is [tokens, hidden] of a batch; ``entries`` are each request's KV [cached + new,
        entry_bytes], uint8, and how many new tokens it has, the last ones. Gives [tokens, hidden]."""


def attention_layer(kind: Attention, hidden: int, device: torch.device) -> AttentionLayer:
    """The kernels of ``kind``."""
    match kind:
        case GroupedQueryAttention():
            return GroupedQuery(kind, hidden, device)
        case LatentAttention():
            return Latent(kind, hidden, device)


class GroupedQuery:
    """See `AttentionLayer`. An entry is [2, kv_heads, head_dim]: BF16, or FP8 that is converted to it."""

    def __init__(self, kind: GroupedQueryAttention, hidden: int, device: torch.device) -> None:
        self._kind = kind
        self._heads_out = kind.query_heads * kind.head_dim
        self._qkv = weights(device, hidden, self._heads_out + 2 * kind.kv_heads * kind.head_dim)
        self._output = weights(device, self._heads_out, hidden)

    def __call__(self, hidden: torch.Tensor, entries: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
        """See `AttentionLayer`."""
        queries = (hidden @ self._qkv)[:, : self._heads_out]
        parts = queries.split([new for _, new in entries])
        attended = [
            some for part, (kv, _) in zip(parts, entries, strict=True) for some in self._attended(part, kv)
        ]
        return torch.cat(attended) @ self._output

    def _attended(self, queries: torch.Tensor, entries: torch.Tensor) -> Iterator[torch.Tensor]:
        """One request's tokens, in order; where attention slides, some windows of them at a time."""
        window = self._kind.window
        if window is None:
            yield self._attend(queries, entries)
            return
        end = len(entries) - len(queries)
        for part in queries.split(_WINDOWS_AT_ONCE * window):
            end += len(part)
            yield self._attend(part, entries[max(0, end - len(part) - window + 1) : end])

    def _attend(self, queries: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        kind, new = self._kind, len(queries)
        keys, values = self._keys_and_values(entries)
        mask = self._mask(new, len(entries), queries.device)
        attended = F.scaled_dot_product_attention(
            queries.view(1, new, kind.query_heads, kind.head_dim).transpose(1, 2),
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            attn_mask=mask,
            enable_gqa=kind.query_heads != kind.kv_heads,
        )
        return attended[0].transpose(0, 1).reshape(new, -1)

    def _mask(self, new: int, keys: int, device: torch.device) -> torch.Tensor | None:
        """A token sees itself and what was before it, as far as the window reaches."""
        if new == 1:
            return None
        if self._kind.window is None:
            return causal_lower_right(new, keys)
        ages = torch.arange(keys - new, keys, device=device)[:, None] - torch.arange(keys, device=device)
        return (ages >= 0) & (ages < self._kind.window)

    def _keys_and_values(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[keys, kv_heads, head_dim] each."""
        kind = self._kind
        if kind.kv_element_bytes == 1:
            numbers = entries.view(torch.float8_e4m3fn).to(torch.bfloat16)
        else:
            numbers = entries.view(torch.bfloat16)
        both = numbers.view(len(entries), 2, kind.kv_heads, kind.head_dim)
        return both[:, 0], both[:, 1]


class Latent:
    """See `AttentionLayer`: MLA in latent space, the halves of ``kv_b`` absorbed into query and output. An
    entry is an FP8 latent, its FP32 scales and a BF16 rotary key."""

    def __init__(self, kind: LatentAttention, hidden: int, device: torch.device) -> None:
        self._kind = kind
        self._query_a = weights(device, hidden, kind.q_lora_rank)
        self._query_b = weights(device, kind.q_lora_rank, kind.heads * (kind.nope_dim + kind.rope_dim))
        self._latent = weights(device, hidden, kind.kv_lora_rank + kind.rope_dim)
        self._into_latent = weights(device, kind.heads, kind.nope_dim, kind.kv_lora_rank)
        self._out_of_latent = weights(device, kind.heads, kind.kv_lora_rank, kind.value_dim)
        self._output = weights(device, kind.heads * kind.value_dim, hidden)
        self._sparse = None if kind.indexer is None else SparseIndexer(kind.indexer, hidden, kind, device)

    def __call__(self, hidden: torch.Tensor, entries: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
        """See `AttentionLayer`."""
        kind = self._kind
        low_rank = hidden @ self._query_a
        query = (low_rank @ self._query_b).view(len(hidden), kind.heads, kind.nope_dim + kind.rope_dim)
        hidden @ self._latent  # the new tokens' entries; what is written to the cache is their content
        nope, rope = query.split([kind.nope_dim, kind.rope_dim], dim=2)
        in_latent = torch.bmm(nope.transpose(0, 1), self._into_latent).transpose(0, 1)
        queries = torch.cat([in_latent, rope], dim=2)
        index = None if self._sparse is None else self._sparse.queries(hidden, low_rank)
        attended, first = [], 0
        for kv, new in entries:
            rows = slice(first, first + new)
            keys = self._dequantized(kv)
            if index is None or self._sparse is None:
                attended.append(self._all_keys(queries[rows], keys))
            else:
                attended.append(self._picked_keys(queries[rows], keys, index[0][rows], index[1][rows]))
            first += new
        values = torch.bmm(torch.cat(attended).transpose(0, 1), self._out_of_latent)
        return values.transpose(0, 1).reshape(len(hidden), -1) @ self._output

    def _dequantized(self, entries: torch.Tensor) -> torch.Tensor:
        """[keys, kv_lora_rank + rope_dim], BF16."""
        rank = self._kind.kv_lora_rank
        scales_end = rank + 4 * (rank // _SCALED)
        latent = entries[:, :rank].view(torch.float8_e4m3fn).to(torch.bfloat16)
        if scales_end > rank:
            scales = entries[:, rank:scales_end].view(torch.float32).to(torch.bfloat16)
            latent = (latent.view(len(entries), -1, _SCALED) * scales[:, :, None]).view(len(entries), rank)
        return torch.cat([latent, entries[:, scales_end:].view(torch.bfloat16)], dim=1)

    def _all_keys(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """[new, heads, latent + rope] over [keys, latent + rope] -> [new, heads, latent]."""
        new, heads, _ = queries.shape
        at_once = _rows_at_once(heads * len(keys) * queries.element_size())
        attended = []
        for first in range(0, new, at_once):
            part = queries[first : first + at_once]
            seen = keys[: len(keys) - new + first + len(part)]
            scores = (part.flatten(0, 1) @ seen.T).view(len(part), heads, len(seen))
            _hide_later(scores)
            values = scores.softmax(dim=2).flatten(0, 1) @ seen[:, : self._kind.kv_lora_rank]
            attended.append(values.view(len(part), heads, -1))
        return torch.cat(attended)

    def _picked_keys(
        self, queries: torch.Tensor, keys: torch.Tensor, index: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """As `_all_keys`, over the ``top_k`` keys that the indexer scores highest for each new token."""
        assert self._sparse is not None
        new = len(queries)
        top_k = min(self._sparse.kind.top_k, len(keys))
        row_bytes = max(top_k * keys.shape[1] * keys.element_size(), self._sparse.row_bytes(len(keys)))
        attended = []
        at_once = _rows_at_once(row_bytes)
        for first in range(0, new, at_once):
            rows = slice(first, first + at_once)
            part = queries[rows]
            seen = len(keys) - new + first + len(part)
            scores = self._sparse.scores(index[rows], shares[rows], seen)
            _hide_later(scores)
            chosen = keys[scores.topk(min(top_k, seen), dim=1, sorted=False).indices]
            likeness = torch.bmm(part, chosen.transpose(1, 2)).softmax(dim=2)
            attended.append(torch.bmm(likeness, chosen[:, :, : self._kind.kv_lora_rank]))
        return torch.cat(attended)


class SparseIndexer:
    """Scores all keys for a token (DSA). Its keys are random ones: the KV cache that is moved has none."""

    def __init__(self, kind: Indexer, hidden: int, latent: LatentAttention, device: torch.device) -> None:
        self.kind = kind
        self._query = weights(device, latent.q_lora_rank, kind.heads * kind.dim)
        self._key = weights(device, hidden, kind.dim)
        self._shares = weights(device, hidden, kind.heads)
        self._keys = weights(device, 0, kind.dim)

    def queries(self, hidden: torch.Tensor, low_rank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Index queries [tokens, heads, dim] and the heads' weights [tokens, heads]."""
        hidden @ self._key  # the new tokens' index keys
        return (low_rank @ self._query).view(-1, self.kind.heads, self.kind.dim), hidden @ self._shares

    def row_bytes(self, keys: int) -> int:
        """Memory for one token's scores before they are summed."""
        return self.kind.heads * keys * 2

    def scores(self, queries: torch.Tensor, shares: torch.Tensor, keys: int) -> torch.Tensor:
        """[tokens, keys]."""
        if len(self._keys) < keys:
            self._keys = weights(queries.device, keys, self.kind.dim)
        each = (queries.flatten(0, 1) @ self._keys[:keys].T).relu_().view(len(queries), self.kind.heads, keys)
        return torch.bmm(shares[:, None], each)[:, 0]


def _rows_at_once(row_bytes: int) -> int:
    return max(1, _WORKING_BYTES // row_bytes)


def _hide_later(scores: torch.Tensor) -> None:
    """Of [tokens, ..., keys] scores, the tokens being the last keys: none sees a later one."""
    tokens = len(scores)
    if tokens > 1:
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=scores.device).triu(1)
        scores[..., -tokens:].masked_fill_(later if scores.dim() == 2 else later[:, None], float("-inf"))
