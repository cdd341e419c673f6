"""A model's layers on one engine: one set of weights for all layers of a kind, computed in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hosts.compute.torch.attention import AttentionLayer, attention_layer
from hosts.compute.torch.mlp import Dense, Head, MixtureOfExperts, TokenLayer
from hosts.compute.torch.weights import weights
from workloads.models import Model


class Layers:
    """The kernels of ``model`` on one engine, of which ``expert_engines`` share the experts.

    ``kinds`` are of attention, in the model's order, ``parts`` what depends on the number of tokens alone:
    dense MLP, experts, head. The input of every layer is the same random activations: layers follow one
    another in time, and need not in numbers.
    """

    def __init__(self, model: Model, expert_engines: int, device: torch.device) -> None:
        self._device, self._model = device, model
        self.kinds: list[AttentionLayer] = [
            attention_layer(kind, model.hidden, device) for _, kind in model.attention
        ]
        self.parts: dict[str, TokenLayer] = {"head": Head(model.hidden, model.vocabulary, device)}
        if model.dense_layers:
            self.parts["dense"] = Dense(model.hidden, model.dense_intermediate, device)
        if model.experts is not None:
            self.parts["experts"] = MixtureOfExperts(model.experts, model.hidden, expert_engines, device)
        counts = [count for count, _ in model.attention]
        self._attention = [kind for kind, count in zip(self.kinds, counts, strict=True) for _ in range(count)]
        self._activations = weights(device, 1, model.hidden)

    def compute(self, layer: int, entries: Sequence[tuple[torch.Tensor, int]], mlp_tokens: int) -> None:
        """One layer: attention of a batch (`AttentionLayer`), then the MLP of this engine's share."""
        if tokens := sum(new for _, new in entries):
            self._attention[layer](self._input(tokens), entries)
        if mlp_tokens:
            self.parts["dense" if layer < self._model.dense_layers else "experts"](self._input(mlp_tokens))

    def finish(self, requests: int) -> None:
        """The head, for this engine's share of a batch's requests."""
        if requests:
            self.parts["head"](self._input(requests))

    def _input(self, tokens: int) -> torch.Tensor:
        if len(self._activations) < tokens:
            self._activations = weights(self._device, tokens, self._model.hidden)
        return self._activations[:tokens]
