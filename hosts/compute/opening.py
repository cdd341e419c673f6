"""The compute back-ends by name; torch is imported only for who asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hosts.compute.base import Compute
from hosts.compute.measured import prediction_of
from hosts.compute.nic_path import NicPath
from hosts.compute.timed import TimedCompute
from hosts.compute.torch.importing import require_torch
from hosts.config import ComputeConfig, EngineConfig, Geometry


def open_compute(
    config: ComputeConfig,
    engine: EngineConfig,
    engines: int,
    geometry: Geometry,
    content_seed: int,
    host_memory: NDArray[np.uint8],
    nics: Sequence[NicPath] = (),
) -> Compute:
    """``engines`` engines of one host, for KV of that geometry and content, which lies in ``host_memory``.
    With ``nics``, a back-end that copies does so through them, each engine through its own.

    Raises ModelError for a model that is not known, `ComputeError` for a device that cannot be had.
    """
    prediction = prediction_of(engine)
    if config.kind == "timed":
        return TimedCompute(prediction, engines, geometry.layers)
    require_torch(config.python)
    from hosts.compute.torch.backend import TorchCompute

    return TorchCompute(config, prediction, engines, geometry, content_seed, host_memory, nics)
