"""How long work takes by the hardware profile: FLOPs and bytes of the model over the GPU's rates.

Engines of a host that share a model's experts (expert parallelism) run in step: each computes attention
for its own requests, so a layer takes as long as the slowest one's, and the experts' work is shared
equally (paper 6.2). A forward pass or decode step never takes less than reading the weights from HBM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hosts.config import EngineConfig
from workloads.models import Model, kv_bytes_per_token, prefill_flops


class Piece(NamedTuple):
    """What a forward pass computes of one request: ``new_tokens`` over ``cached_tokens``."""

    cached_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted times of a group's work, in real seconds; `dilated_ns` makes them emulated."""

    config: EngineConfig
    model: Model

    def attention_s(self, cached_tokens: int, new_tokens: int) -> float:
        """One engine's attention for one request, all layers: what the compute quota bounds (6.2)."""
        return self.model.attention_flops(cached_tokens, new_tokens) / self.config.gpu_flops

    def prompt_s(self, cached_tokens: int, new_tokens: int) -> float:
        """One request's part of forward passes, beside others: what it adds to a queue (6.1)."""
        return prefill_flops(self.model, cached_tokens, new_tokens) / self.config.gpu_flops

    def forward_s(self, batches: Sequence[Sequence[Piece]]) -> float:
        """A forward pass of engines that run in step; ``batches[e]`` is the batch of engine e."""
        attention_s = max(sum(self.attention_s(*piece) for piece in batch) for batch in batches)
        pieces = [piece for batch in batches for piece in batch]
        shared = self.model.mlp_flops(sum(p.new_tokens for p in pieces)) + len(pieces) * self.model.head_flops
        return max(attention_s + shared / len(batches) / self.config.gpu_flops, self._weights_s)

    def decode_step_s(self, contexts: Sequence[Sequence[int]]) -> float:
        """One token for every request; ``contexts[e]`` are the context lengths on engine e."""
        attention_s = max(sum(map(self._decode_attention_s, engine)) for engine in contexts)
        requests = sum(map(len, contexts))
        shared = self.model.mlp_flops(requests) + requests * self.model.head_flops
        shared_s = max(shared / len(contexts) / self.config.gpu_flops, self._weights_s)
        return self.config.decode_overhead_s + attention_s + shared_s

    def copy_s(self, tokens: float) -> float:
        """Host memory to HBM or back, KV of ``tokens`` tokens in all layers."""
        return tokens * kv_bytes_per_token(self.model) / self.config.copy_bytes_per_s

    def dilated_ns(self, seconds: float) -> int:
        """Real seconds as emulated nanoseconds."""
        return round(seconds * self.config.time_dilation * 1e9)

    @property
    def _weights_s(self) -> float:
        return self.config.weight_bytes / self.config.hbm_bytes_per_s

    def _decode_attention_s(self, context_tokens: int) -> float:
        read_s = self.model.decode_read_bytes(context_tokens) / self.config.hbm_bytes_per_s
        return max(read_s, self.model.attention_flops(context_tokens, 1) / self.config.gpu_flops)
