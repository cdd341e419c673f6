"""A prefill pass of one prompt on one engine, layer by layer, and its parts alone: does loading hide behind
computing (paper 4.1)?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hosts.buffers import BufferArena
from hosts.compute import Chunk, ComputeError, NicPath, Piece, ResidentKv, all_layers, open_compute
from hosts.config import ComputeConfig, EngineConfig, Geometry, TransportConfig
from hosts.content import fill_blocks, mismatched, salts
from hosts.transport import open_transport
from workloads.models import find_model, kv_bytes_per_token

PassPart = Literal["load", "compute", "together"]
"""KV of all layers to the device; the pass without any KV moved; the pass with it, both ways."""

_PAGE_BYTES = 4096
_SEED = 1
_ROOM = 1.1  # the allocator rounds up


class PromptShape(msgspec.Struct, frozen=True):
    """``new_tokens`` over ``cached_tokens``, which are whole blocks, of ``model`` in real bytes."""

    model: str
    cached_tokens: int
    new_tokens: int
    block_tokens: int

    @property
    def geometry(self) -> Geometry:
        """Nothing is scaled down."""
        model = find_model(self.model)
        return Geometry(model.layers, self.block_tokens, self.block_tokens * model.layer_kv_bytes_per_token)


class _KvInMemory:
    """See `PassKv`: in blocks one after the other, as a PE buffer has it."""

    def __init__(
        self, blocks: NDArray[np.uint8], cached_blocks: int, geometry: Geometry, moves: bool
    ) -> None:
        self.moves, self.copied_tokens = moves, cached_blocks * geometry.block_tokens
        self._blocks, self._cached, self._layer_bytes = blocks, cached_blocks, geometry.layer_block_bytes

    def cached_rows(self, layer: int) -> Sequence[NDArray[np.uint8]]:
        """See `CachedKv`."""
        return (self._layer(layer)[: self._cached],)

    def new_rows(self, layer: int) -> NDArray[np.uint8]:
        """See `PassKv`."""
        return self._layer(layer)[self._cached :]

    def new_salts(self) -> NDArray[np.uint64]:
        """See `PassKv`."""
        return salts(_SEED, np.arange(self._cached, len(self._blocks)))

    def fill_new(self) -> None:
        """See `PassKv`."""
        fill_blocks(self._blocks[self._cached :], _SEED, np.arange(self._cached, len(self._blocks)))

    def _layer(self, layer: int) -> NDArray[np.uint8]:
        return self._blocks[:, layer * self._layer_bytes : (layer + 1) * self._layer_bytes]


class LayerwisePass:
    """A prompt of ``shape`` in memory for copies, and an engine for it, until closed."""

    def __init__(self, shape: PromptShape, config: ComputeConfig) -> None:
        self.shape, self._config, self._geometry = shape, config, shape.geometry
        cached, new = (-(-t // shape.block_tokens) for t in (shape.cached_tokens, shape.new_tokens))
        nbytes = (cached + new) * self._geometry.full_block_bytes
        self._memory = BufferArena(nbytes, _PAGE_BYTES, pages="transparent").view
        self._blocks = self._memory[:nbytes].reshape(cached + new, self._geometry.full_block_bytes)
        fill_blocks(self._blocks[:cached], _SEED, np.arange(cached))
        self._cached = cached
        self._kv = {
            moves: _KvInMemory(self._blocks, cached, self._geometry, moves) for moves in (True, False)
        }
        self._resources = AsyncExitStack()

    async def open(self, transport: TransportConfig) -> None:
        """The engine and, to copy through a NIC, ``transport``; raises `ComputeError`, `TransferError`."""
        nics = []
        if self._config.copy == "nic":
            opened = await open_transport(transport)
            self._resources.push_async_callback(opened.close)
            nics.append(await NicPath.open(opened, opened.register(self._memory)))
        engine = _engine(self.shape)
        self._compute = open_compute(self._config, engine, 1, self._geometry, _SEED, self._memory, nics)
        self._resources.push_async_callback(self._compute.close)

    async def close(self) -> None:
        """Give everything back."""
        await self._resources.aclose()

    async def verify(self) -> None:
        """Load all layers, and make one pass; raises `ComputeError` if KV is not there as it has to be."""
        resident = await self._compute.load(0, self._kv[True], self.shape.cached_tokens)
        self._check(self._on_device(resident), "on the device after loading them")
        resident.free()
        await self._run("together")
        self._check(self._blocks, "after a pass")

    def _on_device(self, resident: ResidentKv) -> NDArray[np.uint8]:
        """The cached blocks as they lie there: [blocks, full_block_bytes]."""
        from hosts.compute.torch.residence import Residence

        assert isinstance(resident, Residence), "what the torch back-end loads"
        layers = [slots[: self._cached].cpu().numpy() for slots in resident.slots]
        return np.concatenate(layers, axis=1)

    def _check(self, blocks: NDArray[np.uint8], when: str) -> None:
        wrong = mismatched(blocks, _SEED, np.arange(len(blocks)))
        if len(wrong):
            raise ComputeError(
                f"{self.shape.model}: {len(wrong)} of {len(blocks)} blocks are wrong {when}, block "
                f"{wrong[0]} first: a copy to or from the device, or its memory, is not to be trusted"
            )

    async def time(self, part: PassPart, seconds: float) -> float:
        """Seconds of one, the median of as many as fit, at least three after one that warms up."""
        await self._run(part)
        ends_at, times = time.perf_counter() + seconds, list[float]()
        while len(times) < 3 or time.perf_counter() < ends_at:
            began_at = time.perf_counter()
            await self._run(part)
            times.append(time.perf_counter() - began_at)
        return statistics.median(times)

    async def _run(self, part: PassPart) -> None:
        if part == "load":
            (await self._compute.load(0, self._kv[True], self.shape.cached_tokens)).free()
            return
        chunk = Chunk(Piece(self.shape.cached_tokens, self.shape.new_tokens), self._kv[part == "together"])
        async with self._compute.forward(range(1), [[chunk]]) as forward:
            await all_layers(forward, self._geometry.layers)


def _engine(shape: PromptShape) -> EngineConfig:
    """One that nothing is predicted by, with room for the prompt in all layers."""
    tokens = shape.cached_tokens + shape.new_tokens
    return EngineConfig(
        model=shape.model,
        gpu_flops=1.0,
        hbm_bytes_per_s=1.0,
        copy_bytes_per_s=1.0,
        weight_bytes=0.0,
        kv_hbm_bytes=_ROOM * tokens * kv_bytes_per_token(find_model(shape.model)),
        decode_overhead_s=0.0,
        compute_quota_s=1.0,
        time_dilation=1.0,
    )
