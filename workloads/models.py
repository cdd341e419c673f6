"""KV-cache sizes and prefill FLOPs of the paper's models, from their public configurations.

What is counted, for a prefill of ``append_tokens`` on top of ``context_tokens`` cached tokens:

- 2 FLOPs per active parameter and appended token: attention projections (for MLA with the two halves
  of ``kv_b`` absorbed into query and output), the sparse indexer's projections, and the MLP or the
  router, the chosen and the shared experts. Norms, biases and embeddings are left out.
- Attention over the keys each appended token sees, cached and causal, by its true kind: grouped-query
  attention over all of them; sparse MLA over at most ``top_k`` of them in latent space (scores over
  ``kv_lora_rank + rope_dim``, values over ``kv_lora_rank``), after an indexer that scores every one.
- The language-model head once: prefill needs only the last token's logits.

With the KV cache as paper section 3 counts it (FP8 MLA entries of 656 B per token and layer, FP16 for
Qwen, the cached tokens only) this gives the paper's cache-compute ratios at append 429 over contexts
of 16K-64K: Qwen2.5-32B 119-270 (paper 117-267), DeepSeek-V3.2 12.3-35.2 (paper 13-36) GB per PFLOP.
The indexer's own key cache, which a real load would add, is reported apart.
"""

from __future__ import annotations

from dataclasses import dataclass


class ModelError(ValueError):
    """A model that is not known, or a size that no prefill can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Keys and values cached for ``kv_heads``, shared by groups of query heads (GQA)."""

    query_heads: int
    kv_heads: int
    head_dim: int
    kv_element_bytes: int

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
        """Scores and weighted values, 2 FLOPs a multiply-add, over all visible keys."""
        keys = _visible_keys(context_tokens, append_tokens)
        return keys * self.query_heads * 2 * (self.head_dim + self.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLatentAttention:
    """Multi-head latent attention over the ``top_k`` keys that an indexer picks (MLA with DSA)."""

    heads: int
    q_lora_rank: int
    kv_lora_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    indexer_heads: int
    indexer_dim: int
    top_k: int

    @property
    def kv_bytes_per_token(self) -> int:
        """FP8 latent, one FP32 scale for each 128 of it, BF16 rotary key; of one token in one layer."""
        return self.kv_lora_rank + 4 * (self.kv_lora_rank // 128) + 2 * self.rope_dim

    @property
    def indexer_bytes_per_token(self) -> int:
        """FP8 index key and its FP32 scale, of one token in one layer."""
        return self.indexer_dim + 4

    def parameters(self, hidden: int) -> int:
        """Query, latent, ``kv_b`` and output projections and the indexer's three."""
        query = hidden * self.q_lora_rank + self.q_lora_rank * self.heads * (self.nope_dim + self.rope_dim)
        latent = hidden * (self.kv_lora_rank + self.rope_dim)
        kv_b = self.kv_lora_rank * self.heads * (self.nope_dim + self.value_dim)
        output = self.heads * self.value_dim * hidden
        indexer = (self.q_lora_rank * self.indexer_heads + hidden) * self.indexer_dim
        return query + latent + kv_b + output + indexer + hidden * self.indexer_heads

    def score_flops(self, context_tokens: int, append_tokens: int) -> int:
        """The indexer over all visible keys, then attention over the picked ones."""
        visible = _visible_keys(context_tokens, append_tokens)
        below_top_k = max(0, min(append_tokens, self.top_k - context_tokens))
        picked = _visible_keys(context_tokens, below_top_k) + (append_tokens - below_top_k) * self.top_k
        index = visible * self.indexer_heads * 2 * self.indexer_dim
        return index + picked * self.heads * 2 * (2 * self.kv_lora_rank + self.rope_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts; ``active`` of the ``routed`` and all ``shared`` ones see each token."""

    routed: int
    active: int
    shared: int
    intermediate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder's geometry. The first ``dense_layers`` layers have a plain gated MLP of
    ``dense_intermediate``, the others ``experts``; ``source`` says where the figures come from."""

    name: str
    source: str
    hidden: int
    layers: int
    vocabulary: int
    attention: GroupedQueryAttention | SparseLatentAttention
    dense_layers: int
    dense_intermediate: int
    experts: Experts | None = None

    @property
    def layer_kv_bytes_per_token(self) -> int:
        """KV bytes of one token in one layer, without an indexer's keys."""
        return self.attention.kv_bytes_per_token

    @property
    def indexer_bytes_per_token(self) -> int:
        """Bytes of the indexer's key cache of one token, all layers; 0 without an indexer."""
        return self.layers * self.attention.indexer_bytes_per_token

    @property
    def total_parameters(self) -> int:
        """All parameters, with embedding and head, without norms and biases."""
        attention = self.layers * self.attention.parameters(self.hidden)
        mlp = sum(self._mlp_parameters(layer, active=False) for layer in range(self.layers))
        return attention + mlp + 2 * self.vocabulary * self.hidden

    def layer_flops(self, layer: int, context_tokens: int, append_tokens: int) -> int:
        """FLOPs of one layer (counted from 0) for the appended tokens."""
        active = self.attention.parameters(self.hidden) + self._mlp_parameters(layer, active=True)
        return 2 * active * append_tokens + self.attention.score_flops(context_tokens, append_tokens)

    def _mlp_parameters(self, layer: int, *, active: bool) -> int:
        if self.experts is None or layer < self.dense_layers:
            return 3 * self.hidden * self.dense_intermediate
        used = self.experts.shared + (self.experts.active if active else self.experts.routed)
        return self.hidden * (3 * self.experts.intermediate * used + self.experts.routed)


def kv_bytes_per_token(model: Model, *, include_indexer: bool = False) -> int:
    """KV-cache bytes of one token over all layers; the indexer's keys only if asked for."""
    kv_bytes = model.layers * model.layer_kv_bytes_per_token
    return kv_bytes + (model.indexer_bytes_per_token if include_indexer else 0)


def prefill_flops(model: Model, context_tokens: int, append_tokens: int) -> int:
    """FLOPs to prefill ``append_tokens`` after ``context_tokens`` cached ones: all layers and the head."""
    if context_tokens < 0 or append_tokens < 1:
        raise ModelError(
            f"prefill of {model.name}: found context {context_tokens} and append {append_tokens} tokens, "
            "expected context >= 0 and append >= 1; at least one token is always computed"
        )
    layers = sum(model.layer_flops(layer, context_tokens, append_tokens) for layer in range(model.layers))
    return layers + 2 * model.hidden * model.vocabulary


def gb_per_pflop(
    model: Model, context_tokens: int, append_tokens: int, *, include_indexer: bool = False
) -> float:
    """Cache-compute ratio (paper section 3): GB (1e9 B) of cached KV to load per PFLOP of prefill."""
    loaded_bytes = context_tokens * kv_bytes_per_token(model, include_indexer=include_indexer)
    return (loaded_bytes / 1e9) / (prefill_flops(model, context_tokens, append_tokens) / 1e15)


def find_model(name: str) -> Model:
    """The model of that name; ``ModelError`` lists the known names."""
    try:
        return MODELS[name]
    except KeyError:
        known = ", ".join(MODELS)
        raise ModelError(f"model: found {name!r}, expected one of {known}; correct the name") from None


def _visible_keys(context_tokens: int, append_tokens: int) -> int:
    """Keys summed over appended tokens: each sees the context, its predecessors and itself."""
    return append_tokens * context_tokens + append_tokens * (append_tokens + 1) // 2


_DEEPSEEK_V3_2_660B = Model(
    name="deepseek-v3.2-660b",
    source="config.json of deepseek-ai/DeepSeek-V3.2-Exp; KV layout of FlashMLA's FP8 sparse decoding",
    hidden=7168,
    layers=61,
    vocabulary=129280,
    attention=SparseLatentAttention(
        heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        rope_dim=64,
        nope_dim=128,
        value_dim=128,
        indexer_heads=64,
        indexer_dim=128,
        top_k=2048,
    ),
    dense_layers=3,
    dense_intermediate=18432,
    experts=Experts(routed=256, active=8, shared=1, intermediate=2048),
)

_DUALPATH_27B = Model(
    name="dualpath-27b",
    source="paper section 7 and appendix A; attention ranks, head sizes and vocabulary, which the paper "
    "does not give, as DeepSeek-V3.2 (they make 27 B parameters)",
    hidden=2560,
    layers=30,
    vocabulary=129280,
    attention=SparseLatentAttention(
        heads=32,
        q_lora_rank=1536,
        kv_lora_rank=512,
        rope_dim=64,
        nope_dim=128,
        value_dim=128,
        indexer_heads=32,
        indexer_dim=64,
        top_k=1024,
    ),
    dense_layers=1,
    dense_intermediate=12288,
    experts=Experts(routed=72, active=6, shared=2, intermediate=1536),
)

_QWEN2_5_32B = Model(
    name="qwen2.5-32b",
    source="config.json of Qwen/Qwen2.5-32B; FP16 KV as in paper section 3",
    hidden=5120,
    layers=64,
    vocabulary=152064,
    attention=GroupedQueryAttention(query_heads=40, kv_heads=8, head_dim=128, kv_element_bytes=2),
    dense_layers=64,
    dense_intermediate=27648,
)

MODELS = {model.name: model for model in (_DUALPATH_27B, _DEEPSEEK_V3_2_660B, _QWEN2_5_32B)}
