"""The ``torch`` compute back-end: kernels of the model's true shapes, KV through the device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray

from hosts.compute.base import CachedKv, Chunk
from hosts.compute.prediction import Prediction
from hosts.compute.torch.decode import TorchDecode
from hosts.compute.torch.device import find_devices
from hosts.compute.torch.engine import Engine
from hosts.compute.torch.forward import TorchForward
from hosts.compute.torch.kv import KvMemory
from hosts.compute.torch.layers import Layers
from hosts.compute.torch.residence import Residence, load
from hosts.config import ComputeConfig, Geometry
from hosts.cuda.driver import Gpu
from hosts.cuda.memory import PinnedMemory


class TorchCompute:
    """See `Compute`. Owns its engines, and the page lock of the host's memory while there are GPUs."""

    def __init__(
        self,
        config: ComputeConfig,
        prediction: Prediction,
        engines: int,
        geometry: Geometry,
        content_seed: int,
        host_memory: NDArray[np.uint8],
    ) -> None:
        self.prediction = prediction
        devices = find_devices(config.device, config.gpus, engines)
        with ExitStack() as resources:
            if config.device == "cuda" and devices:
                gpu = Gpu(devices[0].index)
                resources.callback(gpu.close)
                resources.callback(PinnedMemory(gpu, host_memory).close)
            self._engines = []
            for number, device in enumerate(devices):
                layers = Layers(prediction.model, config.expert_engines, device)
                memory = KvMemory(prediction.model, geometry, content_seed, device)
                self._engines.append(Engine(number, layers, memory))
                resources.callback(self._engines[-1].close)
            self._resources = resources.pop_all()

    def forward(self, engines: range, batches: Sequence[Sequence[Chunk]], layerwise: bool) -> TorchForward:
        """See `Compute`."""
        return TorchForward([self._engines[engine] for engine in engines], batches)

    def decode(self, engines: range) -> TorchDecode:
        """See `Compute`."""
        return TorchDecode([self._engines[engine] for engine in engines])

    async def load(self, engine: int, kv: CachedKv, tokens: int) -> Residence:
        """See `Compute`."""
        return await load(self._engines[engine], kv, tokens)

    async def close(self) -> None:
        """See `Compute`."""
        self._resources.close()
        self._engines.clear()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
