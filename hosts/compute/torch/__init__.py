"""Compute by torch, on GPUs or, for tests, on the CPU. Imported only for who asks for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hosts.compute.base import Compute
from hosts.compute.prediction import Prediction
from hosts.compute.torch.importing import require_torch
from hosts.config import ComputeConfig, Geometry


def open_torch(
    config: ComputeConfig,
    prediction: Prediction,
    engines: int,
    geometry: Geometry,
    content_seed: int,
    host_memory: NDArray[np.uint8],
) -> Compute:
    """Raises `ComputeError` where torch, or a device that it can use, is missing."""
    require_torch(config.python)
    from hosts.compute.torch.backend import TorchCompute

    return TorchCompute(config, prediction, engines, geometry, content_seed, host_memory)
