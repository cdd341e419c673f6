"""Compute by torch, on GPUs or, for tests, on the CPU. Imported only for who asks for it."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from hosts.compute.base import Compute, ComputeError
from hosts.compute.prediction import Prediction
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
    try:
        from hosts.compute.torch.backend import TorchCompute
    except ImportError as error:
        raise ComputeError(
            f"compute: torch is not installed for {sys.executable} ({error}): pip install "
            "'dualpath-testbed[gpu]' there, or set compute.kind = 'timed'"
        ) from error
    return TorchCompute(config, prediction, engines, geometry, content_seed, host_memory)
