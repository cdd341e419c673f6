"""A model's geometry and what follows from it: KV bytes, FLOPs, weight bytes."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.models.attention import Attention


class ModelError(ValueError):
    """A model that is not known or cannot be, or a size that no prefill can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts; ``active`` of the ``routed`` and all ``shared`` ones see each token.

    ``weight_element_bytes`` includes an expert's quantization scales where they are counted.
    """

    routed: int
    active: int
    shared: int
    intermediate: int
    weight_element_bytes: float

    def parameters(self, hidden: int, experts: int) -> int:
        """Gate, up and down projections of that many experts."""
        return experts * 3 * hidden * self.intermediate


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder's geometry; ``source`` says where the figures come from.

    ``attention`` groups the layers by kind as (layers, kind); no figure here depends on their order. The
    first ``dense_layers`` layers have a plain gated MLP of ``dense_intermediate``, the others ``experts``.
    ``weight_element_bytes`` is that of all weights but the experts', as published.

    Token counts are >= 0. Times of an engine follow from the split: ``attention_flops`` is what
    data-parallel attention computes on a request's own engine, ``mlp_flops`` what expert parallelism
    balances over a group of engines.
    """

    name: str
    source: str
    hidden: int
    vocabulary: int
    weight_element_bytes: float
    attention: tuple[tuple[int, Attention], ...]
    dense_layers: int = 0
    dense_intermediate: int = 0
    experts: Experts | None = None

    def __post_init__(self) -> None:
        entries = sorted({kind.kv_bytes_per_token for _, kind in self.attention})
        if len(entries) != 1:
            raise ModelError(
                f"model {self.name}: attention: found KV entries of {entries} bytes a token and layer, "
                "expected one size in all layers; a Layer Block has one size"
            )
        if self.experts is None and self.dense_layers != self.layers:
            raise ModelError(
                f"model {self.name}: dense_layers: found {self.dense_layers}, expected {self.layers}; "
                "without experts all layers are dense"
            )

    @property
    def layers(self) -> int:
        """Layers of all kinds."""
        return sum(layers for layers, _ in self.attention)

    @property
    def expert_parallel(self) -> bool:
        """Whether there are experts to spread over engines."""
        return self.experts is not None

    @property
    def layer_kv_bytes_per_token(self) -> int:
        """KV bytes stored of one token in one layer, without an indexer's keys."""
        return self.attention[0][1].kv_bytes_per_token

    @property
    def indexer_bytes_per_token(self) -> int:
        """Bytes of the indexer's key cache of one token, all layers; 0 without an indexer."""
        return sum(layers * kind.indexer_bytes_per_token for layers, kind in self.attention)

    @property
    def total_parameters(self) -> int:
        """All parameters, with embedding and head, without norms and biases."""
        routed = 0 if self.experts is None else self.experts.routed
        embedding_and_head = 2 * self.vocabulary * self.hidden
        return self._attention_parameters + self._mlp_parameters(routed) + embedding_and_head

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights. Quantization scales count only where an element's bytes include them."""
        weights = self.total_parameters * self.weight_element_bytes
        if self.experts is None:
            return round(weights)
        each_layer = self.experts.parameters(self.hidden, self.experts.routed + self.experts.shared)
        experts = (self.layers - self.dense_layers) * each_layer
        return round(weights + experts * (self.experts.weight_element_bytes - self.weight_element_bytes))

    def attention_flops(self, context_tokens: int, append_tokens: int) -> int:
        """Attention of all layers for the appended tokens: projections, indexer, scores and values."""
        scores = sum(
            layers * kind.score_flops(context_tokens, append_tokens) for layers, kind in self.attention
        )
        return 2 * self._attention_parameters * append_tokens + scores

    def mlp_flops(self, tokens: int) -> int:
        """MLPs of all layers: dense ones, routers, chosen and shared experts."""
        active = 0 if self.experts is None else self.experts.active
        return 2 * self._mlp_parameters(active) * tokens

    @property
    def head_flops(self) -> int:
        """The language-model head for one token."""
        return 2 * self.hidden * self.vocabulary

    def decode_flops(self, context_tokens: int) -> int:
        """One decode step of one request: one token after ``context_tokens`` cached ones."""
        return self.attention_flops(context_tokens, 1) + self.mlp_flops(1) + self.head_flops

    def decode_read_bytes(self, context_tokens: int) -> int:
        """Cache bytes, KV and index keys, that one decode step of one request reads over all layers.

        The weights, which a batch reads once, are ``weight_bytes`` or less: a small batch misses experts.
        """
        return sum(layers * kind.decode_read_bytes(context_tokens) for layers, kind in self.attention)

    @property
    def _attention_parameters(self) -> int:
        return sum(layers * kind.parameters(self.hidden) for layers, kind in self.attention)

    def _mlp_parameters(self, routed: int) -> int:
        """With ``routed`` of the routed experts, and the shared ones, in each layer that has experts."""
        parameters = self.dense_layers * 3 * self.hidden * self.dense_intermediate
        if self.experts is not None:
            experts = self.experts.parameters(self.hidden, routed + self.experts.shared)
            router = self.hidden * self.experts.routed
            parameters += (self.layers - self.dense_layers) * (experts + router)
        return parameters


def kv_bytes_per_token(model: Model, *, include_indexer: bool = False) -> int:
    """KV-cache bytes stored of one token over all layers; the indexer's keys only if asked for."""
    kv_bytes = model.layers * model.layer_kv_bytes_per_token
    return kv_bytes + (model.indexer_bytes_per_token if include_indexer else 0)


def prefill_flops(model: Model, context_tokens: int, append_tokens: int) -> int:
    """FLOPs to prefill ``append_tokens`` after ``context_tokens`` cached ones: all layers and the head."""
    if context_tokens < 0 or append_tokens < 1:
        raise ModelError(
            f"prefill of {model.name}: found context {context_tokens} and append {append_tokens} tokens, "
            "expected context >= 0 and append >= 1; at least one token is always computed"
        )
    layers = model.attention_flops(context_tokens, append_tokens) + model.mlp_flops(append_tokens)
    return layers + model.head_flops


def gb_per_pflop(
    model: Model, context_tokens: int, append_tokens: int, *, include_indexer: bool = False
) -> float:
    """Cache-compute ratio (paper section 3): GB (1e9 B) of cached KV to load per PFLOP of prefill."""
    loaded_bytes = context_tokens * kv_bytes_per_token(model, include_indexer=include_indexer)
    return (loaded_bytes / 1e9) / (prefill_flops(model, context_tokens, append_tokens) / 1e15)
