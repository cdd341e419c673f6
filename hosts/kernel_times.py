"""How long an engine's kernels take, as measured: what a calibration fits and a prediction is made from.

A layer of attention takes, for the requests of a batch with c cached and n new tokens each,

    layer_s + sum of (request_s + token_s n + key_s (c + n) + index_flop_s I(c, n) + score_flop_s S(c, n))

where I and S are the FLOPs of the indexer's scores and of attention's (`workloads.models.attention`); new
tokens stand for the projections, keys for reading and converting the cache. One set of these is for prefill,
one for decoding (n = 1), which takes other kernels. MLPs and head depend on the number of tokens alone: they
are interpolated between what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from workloads.models import Attention


class AttentionTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one kind of attention, for each of the ``layers`` that have it."""

    layers: int
    layer_s: float
    request_s: float
    token_s: float
    key_s: float
    index_flop_s: float
    score_flop_s: float

    def seconds(self, kind: Attention, cached_tokens: int, new_tokens: int) -> float:
        """One layer's time for one request, but for ``layer_s``."""
        return float(np.dot(self.request_coefficients(), features(kind, cached_tokens, new_tokens)))

    def request_coefficients(self) -> tuple[float, ...]:
        """In the order of `features`."""
        return self.request_s, self.token_s, self.key_s, self.index_flop_s, self.score_flop_s


def features(kind: Attention, cached_tokens: int, new_tokens: int) -> tuple[float, ...]:
    """What a request's time grows with: 1, new tokens, keys, index FLOPs, score FLOPs."""
    index_flops = kind.index_flops(cached_tokens, new_tokens)
    score_flops = kind.score_flops(cached_tokens, new_tokens) - index_flops
    return 1.0, new_tokens, cached_tokens + new_tokens, index_flops, score_flops


class TokenTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that a part of ``layers`` layers (the head: of one) takes for so many tokens, ascending."""

    layers: int
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, tokens: float) -> float:
        """One layer's time: linear between two measured counts, beyond the last one in proportion to it."""
        if tokens <= 0:
            return 0.0
        if tokens > self.tokens[-1]:
            return self.seconds[-1] * tokens / self.tokens[-1]
        return float(np.interp(tokens, self.tokens, self.seconds))


class KernelTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a model's layers on one engine; attention in the order of the model's kinds."""

    prefill: tuple[AttentionTimes, ...]
    decode: tuple[AttentionTimes, ...]
    mlps: tuple[TokenTimes, ...]
    head: TokenTimes

    def attention_s(self, kinds: Sequence[Attention], cached_tokens: int, new_tokens: int) -> float:
        """All layers' attention for one request of a forward pass."""
        return _sum(self.prefill, kinds, cached_tokens, new_tokens)

    def decode_attention_s(self, kinds: Sequence[Attention], context_tokens: int) -> float:
        """All layers' attention for one request of a decode step."""
        return _sum(self.decode, kinds, context_tokens, 1)

    def shared_s(self, tokens: float, requests: float) -> float:
        """MLPs for an engine's share of all tokens, and the head for its share of the requests."""
        return sum(mlp.layers * mlp.of(tokens) for mlp in self.mlps) + self.head.of(requests)


def layers_s(times: Sequence[AttentionTimes]) -> float:
    """What all layers take whatever is in the batch."""
    return sum(of_kind.layers * of_kind.layer_s for of_kind in times)


def _sum(times: Sequence[AttentionTimes], kinds: Sequence[Attention], cached: int, new: int) -> float:
    return sum(t.layers * t.seconds(kind, cached, new) for t, kind in zip(times, kinds, strict=True))
