"""Attention of one layer as a GPU computes it: true shapes, random weights, the loaded KV as it lies in HBM.

Projections are made for the tokens of a whole batch at once, attention for one request after the other. What
is computed is what `workloads.models.attention` counts, and little besides: keys that only some tokens of a
part see are computed for all of it and masked, and the sparse indexer sums its heads by a matrix product
(1 / (indexer dim) of its scores). Dequantizing FP8 entries counts no FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from hosts.compute.torch.weights import weights
from hosts.kernel_work import rows_at_once
from workloads.models import Attention, GroupedQueryAttention, Indexer, LatentAttention

_SCALED = 128  # latent values that share an FP32 scale


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
        attended = [self._attend(part, kv) for part, (kv, _) in zip(parts, entries, strict=True)]
        return torch.cat(attended) @ self._output

    def _attend(self, queries: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        """One request: a token sees itself and what was before it, as far as the window reaches."""
        kind, new = self._kind, len(queries)
        if kind.window is not None:
            entries = entries[-(kind.window + new - 1) :]
        keys, values = self._keys_and_values(entries)
        by_head = queries.view(1, new, kind.query_heads, kind.head_dim)
        attend = _flash_attention if queries.is_cuda else _masked_attention
        return attend(by_head, keys[None], values[None], kind.window).reshape(new, -1)

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
            if index is None or self._sparse is None:
                attended.append(self._all_keys(queries[rows], self._dequantized(kv)))
            else:
                attended.append(self._picked_keys(queries[rows], kv, index[0][rows], index[1][rows]))
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
        at_once = rows_at_once(heads * len(keys) * queries.element_size())
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
        self, queries: torch.Tensor, entries: torch.Tensor, index: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """As `_all_keys`, over the ``top_k`` entries that the indexer scores highest for each new token."""
        assert self._sparse is not None
        new, keys = len(queries), len(entries)
        top_k = min(self._sparse.kind.top_k, keys)
        pick = self._picker(entries, new * top_k)
        row_bytes = max(top_k * queries.shape[2] * queries.element_size(), self._sparse.row_bytes(keys))
        attended = []
        at_once = rows_at_once(row_bytes)
        for first in range(0, new, at_once):
            rows = slice(first, first + at_once)
            part = queries[rows]
            seen = keys - new + first + len(part)
            scores = self._sparse.scores(index[rows], shares[rows], seen)
            _hide_later(scores)
            chosen = pick(scores.topk(min(top_k, seen), dim=1, sorted=False).indices)
            likeness = torch.bmm(part, chosen.transpose(1, 2)).softmax(dim=2)
            attended.append(torch.bmm(likeness, chosen[:, :, : self._kind.kv_lora_rank]))
        return torch.cat(attended)

    def _picker(self, entries: torch.Tensor, picks: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Chosen keys [tokens, top_k] -> [tokens, top_k, latent + rope]; of entries or picks, the fewer are
        dequantized."""
        if picks < len(entries):
            return lambda chosen: self._dequantized(entries[chosen.flatten()]).unflatten(0, chosen.shape)
        keys = self._dequantized(entries)
        return lambda chosen: keys[chosen]


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


def _flash_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> torch.Tensor:
    """[1, tokens, heads, dim] each. The kernel itself, as torch.nn.attention.varlen calls it: torch's choice
    among kernels knows no window, and may take one that plans anew for every number of keys.

    One token sees all keys that it is given. It gets no window, with which the kernel would not let the query
    heads of a KV head read that together.
    """
    left, right = (-1, -1) if window is None or queries.shape[1] == 1 else (window - 1, 0)
    attended: torch.Tensor = torch.ops.aten._flash_attention_forward(
        queries,
        keys,
        values,
        None,
        None,
        queries.shape[1],
        keys.shape[1],
        0.0,
        window is None,
        False,
        window_size_left=left,
        window_size_right=right,
    )[0]
    return attended


def _masked_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> torch.Tensor:
    """As `_flash_attention`, where there is no such kernel."""
    new, seen = queries.shape[1], keys.shape[1]
    ages = torch.arange(seen - new, seen, device=keys.device)[:, None] - torch.arange(
        seen, device=keys.device
    )
    mask = (ages >= 0) if window is None else (ages >= 0) & (ages < window)
    heads_first = [part.transpose(1, 2) for part in (queries, keys, values)]
    attended = F.scaled_dot_product_attention(
        heads_first[0],
        heads_first[1],
        heads_first[2],
        attn_mask=mask,
        enable_gqa=queries.shape[2] != keys.shape[2],
    )
    return attended.transpose(1, 2)


def _hide_later(scores: torch.Tensor) -> None:
    """Of [tokens, ..., keys] scores, the tokens being the last keys: none sees a later one."""
    tokens = len(scores)
    if tokens > 1:
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=scores.device).triu(1)
        scores[..., -tokens:].masked_fill_(later if scores.dim() == 2 else later[:, None], float("-inf"))
