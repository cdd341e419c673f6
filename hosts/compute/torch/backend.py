"""The ``torch`` compute back-end: kernels of the model's true shapes, KV through the device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray

from hosts.buffers import BufferArena
from hosts.compute.base import CachedKv, Chunk, ComputeError
from hosts.compute.nic_path import NicPath
from hosts.compute.prediction import Prediction
from hosts.compute.torch.copying import CopyEngines, Copying
from hosts.compute.torch.decode import TorchDecode
from hosts.compute.torch.device import find_devices
from hosts.compute.torch.engine import Engine, all_idle
from hosts.compute.torch.forward import TorchForward
from hosts.compute.torch.kv import KvMemory
from hosts.compute.torch.layers import Layers
from hosts.compute.torch.nic_copying import NicCopying
from hosts.compute.torch.residence import Residence, load
from hosts.config import ComputeConfig, Geometry
from hosts.content import FINITE

WORKING_BYTES = 10e9
"""For a batch's activations, and attention's scores and gathered entries. Passes of 0.3 s of attention on a
Hopper GPU take up to 8.1 GB at once (gpt-oss-120b, all experts on one engine)."""
KV_SLACK = 0.25
"""Memory beside an engine's KV, as a share of it, that makes up for holes: requests of 8K to 130K tokens left
up to a fifth of it in pieces too small for the next one."""
_FILLER_BYTES = 16 * 1024 * 1024
_PAGE_BYTES = 4096


class TorchCompute:
    """See `Compute`. Owns its engines, and what copies between their memory and the host's: ``nics`` or,
    without them, the devices' copy engines."""

    def __init__(
        self,
        config: ComputeConfig,
        prediction: Prediction,
        engines: int,
        geometry: Geometry,
        content_seed: int,
        host_memory: NDArray[np.uint8],
        nics: Sequence[NicPath],
    ) -> None:
        self.prediction = prediction
        devices = find_devices(config.device, config.gpus, engines)
        with ExitStack() as resources:
            filler = _filler(content_seed)
            copying: Copying = (
                NicCopying(nics, engines, filler) if nics else CopyEngines(devices, [host_memory, filler])
            )
            resources.callback(copying.close)
            self._engines = []
            for number, device in enumerate(devices):
                layers = Layers(prediction.model, config.expert_engines, device)
                memory = KvMemory(prediction.model, geometry, content_seed, device, filler)
                self._engines.append(Engine(number, layers, memory, copying.lanes(number, device)))
                resources.callback(self._engines[-1].close)
            for device in {device for device in devices if device.type == "cuda"}:
                _take_budget(device, devices.count(device), prediction.config.kv_hbm_bytes)
            self._resources = resources.pop_all()

    def forward(self, engines: range, batches: Sequence[Sequence[Chunk]]) -> TorchForward:
        """See `Compute`."""
        return TorchForward([self._engines[engine] for engine in engines], batches)

    def decode(self, engines: range) -> TorchDecode:
        """See `Compute`."""
        return TorchDecode([self._engines[engine] for engine in engines])

    async def load(self, engine: int, kv: CachedKv, tokens: int) -> Residence:
        """See `Compute`."""
        return await load(self._engines[engine], kv, tokens)

    async def close(self) -> None:
        """See `Compute`. Lanes may need this event loop to end, so they have to be idle first."""
        try:
            await all_idle(self._engines)
        finally:
            self._resources.close()
            self._engines.clear()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def _filler(seed: int) -> NDArray[np.uint8]:
    """Finite numbers of any kind, as KV is (`hosts.content`), and as much room beside them."""
    filler = BufferArena(2 * _FILLER_BYTES, _PAGE_BYTES).view[: 2 * _FILLER_BYTES]
    some = np.random.default_rng(seed).integers(0, 256, _FILLER_BYTES, np.uint8)
    np.bitwise_and(some, FINITE, out=filler[:_FILLER_BYTES])
    return filler


def _take_budget(device: torch.device, engines: int, kv_bytes: float) -> None:
    """Take room for ``kv_bytes`` for each of this process's engines on a GPU now, before another process
    does, and let it have no more than that, its weights, and what computing takes.

    Raises `ComputeError` where that is not free.
    """
    free_bytes, all_bytes = torch.cuda.mem_get_info(device)
    reserved_bytes = engines * kv_bytes * (1 + KV_SLACK)
    needed_bytes = reserved_bytes + engines * WORKING_BYTES
    if needed_bytes > free_bytes:
        raise ComputeError(
            f"{device}: {free_bytes / 1e9:.1f} of {all_bytes / 1e9:.1f} GB free beside the weights, expected "
            f"{needed_bytes / 1e9:.1f} for {engines} engines: what the profile leaves for KV, {KV_SLACK:.0%} "
            f"more for holes, and {WORKING_BYTES / 1e9:.1f} GB each to compute with; free the GPU "
            "(nvidia-smi shows who has it), or set cluster.replace.gpu_memory"
        )
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_reserved(device) + needed_bytes) / all_bytes), device
    )
    _reserve(device, int(reserved_bytes))


def _reserve(device: torch.device, nbytes: int) -> None:
    """Memory that torch's allocator keeps for this process, as one piece, while there is enough for it."""
    torch.empty(nbytes, dtype=torch.uint8, device=device)
