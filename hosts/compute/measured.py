"""Predicted times from kernels that were measured on the hardware, instead of FLOPs over a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hosts.compute.prediction import Piece, Prediction
from hosts.config import EngineConfig
from hosts.kernel_times import KernelTimes, layers_s
from workloads.models import Attention, find_model


def prediction_of(config: EngineConfig) -> Prediction:
    """By ``config.kernels`` where they were measured, else by FLOPs. Raises ModelError for a model that is
    not known."""
    model = find_model(config.model)
    if config.kernels is None:
        return Prediction(config, model)
    return MeasuredPrediction(config, model, config.kernels)


@dataclass(frozen=True, slots=True)
class MeasuredPrediction(Prediction):
    """See `Prediction`. What it takes to ask for the work is in the kernels' times already."""

    kernels: KernelTimes

    def attention_s(self, cached_tokens: int, new_tokens: int) -> float:
        """See `Prediction`."""
        return self.kernels.attention_s(self._kinds, cached_tokens, new_tokens)

    def prompt_s(self, cached_tokens: int, new_tokens: int) -> float:
        """See `Prediction`."""
        return self.attention_s(cached_tokens, new_tokens) + self.kernels.shared_s(new_tokens, 1)

    def forward_s(self, batches: Sequence[Sequence[Piece]]) -> float:
        """See `Prediction`."""
        attention_s = max(sum(self.attention_s(*piece) for piece in batch) for batch in batches)
        pieces, engines = [piece for batch in batches for piece in batch], len(batches)
        new_tokens = sum(piece.new_tokens for piece in pieces)
        shared_s = self.kernels.shared_s(new_tokens / engines, len(pieces) / engines)
        return layers_s(self.kernels.prefill) + attention_s + shared_s

    def decode_step_s(self, contexts: Sequence[Sequence[int]]) -> float:
        """See `Prediction`."""
        attention_s = max(
            sum(self.kernels.decode_attention_s(self._kinds, context) for context in engine)
            for engine in contexts
        )
        each = sum(map(len, contexts)) / len(contexts)
        return layers_s(self.kernels.decode) + attention_s + self.kernels.shared_s(each, each)

    @property
    def _kinds(self) -> list[Attention]:
        return [kind for _, kind in self.model.attention]
