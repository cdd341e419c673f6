"""Predicted times from kernels that were measured on the hardware, instead of FLOPs over a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hosts.compute.prediction import Piece, Prediction
from hosts.config import EngineConfig
from hosts.kernel_times import Batch, KernelTimes
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
    """See `Prediction`. The host's engines that are not of the group are taken to ask for as much."""

    kernels: KernelTimes

    def attention_s(self, cached_tokens: int, new_tokens: int) -> float:
        """See `Prediction`: on the device, beyond what any batch takes."""
        batch = [(cached_tokens, new_tokens)]
        return self.kernels.prefill_s(self._kinds, batch) - self.kernels.prefill_s(self._kinds, [])

    def prompt_s(self, cached_tokens: int, new_tokens: int) -> float:
        """See `Prediction`: on the device."""
        return self.attention_s(cached_tokens, new_tokens) + self.kernels.shared_s(new_tokens, 1)

    def forward_s(self, batches: Sequence[Sequence[Piece]]) -> float:
        """See `Prediction`."""
        pieces, engines = [piece for batch in batches for piece in batch], len(batches)
        new_tokens = sum(piece.new_tokens for piece in pieces)
        attention_s = max(self.kernels.prefill_s(self._kinds, batch) for batch in batches)
        shared_s = self.kernels.shared_s(new_tokens / engines, len(pieces) / engines)
        return max(attention_s + shared_s, self._asking_s(batches))

    def decode_step_s(self, contexts: Sequence[Sequence[int]]) -> float:
        """See `Prediction`."""
        each = sum(map(len, contexts)) / len(contexts)
        attention_s = max(self.kernels.decode_s(self._kinds, engine) for engine in contexts)
        batches = [[(context, 1) for context in engine] for engine in contexts]
        return max(attention_s + self.kernels.shared_s(each, each), self._asking_s(batches))

    def _asking_s(self, batches: Sequence[Batch]) -> float:
        groups = max(1.0, self.config.host_engines / len(batches))
        return groups * self.kernels.asking_s(self._kinds, batches)

    @property
    def _kinds(self) -> list[Attention]:
        return [kind for _, kind in self.model.attention]
