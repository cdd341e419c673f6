"""What follows attention in a layer, and the head: as `workloads.models.model` counts it, random weights.

An engine computes its share of a group's tokens (paper 6.2). The experts' choice is taken as uniform: each of
the engine's experts gets equally many tokens, rounded up, or, of few tokens, one each as far as they go.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from hosts.compute.torch.weights import weights
from workloads.models import Experts


class TokenLayer(Protocol):
    """What is computed of each token by itself, with its weights."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] -> [tokens, ...]."""


class Dense:
    """See `TokenLayer`: a gated MLP."""

    def __init__(self, hidden: int, intermediate: int, device: torch.device) -> None:
        self._gate_up = weights(device, hidden, 2 * intermediate)
        self._down = weights(device, intermediate, hidden)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `TokenLayer`."""
        return _gated(hidden @ self._gate_up) @ self._down


class MixtureOfExperts:
    """See `TokenLayer`: router, this engine's part of the routed experts, and the shared ones for its tokens.

    Of ``experts.routed`` this engine has one in ``expert_engines``, and computes as many choices as its own
    tokens make, which are other engines' tokens as well.
    """

    def __init__(self, experts: Experts, hidden: int, expert_engines: int, device: torch.device) -> None:
        self._active, self.here = experts.active, -(-experts.routed // expert_engines)
        self._router = weights(device, hidden, experts.routed)
        self._gate_up = weights(device, self.here, hidden, 2 * experts.intermediate)
        self._down = weights(device, self.here, experts.intermediate, hidden)
        shared = experts.shared * experts.intermediate
        self._shared = Dense(hidden, shared, device) if shared else None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `TokenLayer`."""
        hidden @ self._router
        experts, each = expert_rows(len(hidden), self._active, self.here)
        chosen = torch.arange(experts * each, device=hidden.device) % len(hidden)
        dispatched = hidden[chosen].view(experts, each, -1)
        computed = torch.bmm(
            _gated(torch.bmm(dispatched, self._gate_up[:experts])), self._down[:experts]
        ).flatten(0, 1)
        combined = torch.zeros_like(hidden).index_add_(0, chosen, computed)
        return combined if self._shared is None else combined + self._shared(hidden)


class Head:
    """See `TokenLayer`: the language-model head, for the last token of each request."""

    def __init__(self, hidden: int, vocabulary: int, device: torch.device) -> None:
        self._weights = weights(device, hidden, vocabulary)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[requests, hidden] -> [requests], the next tokens."""
        return (hidden @ self._weights).argmax(dim=1)


def expert_rows(tokens: int, active: int, experts: int) -> tuple[int, int]:
    """Experts that ``tokens`` reach with ``active`` choices each, and the rows that each of them computes."""
    reached = max(1, min(experts, tokens * active))
    return reached, -(-tokens * active // reached)


def _gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
