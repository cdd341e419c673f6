"""Random weights: the testbed computes what a model would, not what it would say."""

from __future__ import annotations

import torch

DTYPE = torch.bfloat16


def weights(device: torch.device, *shape: int) -> torch.Tensor:
    """Normal, scaled so that sums over the last but one dimension stay near 1."""
    made = torch.empty(shape, dtype=DTYPE, device=device)
    return made.normal_(std=max(1, shape[-2]) ** -0.5)
