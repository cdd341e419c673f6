"""A prefill pass of one prompt on one engine, layer by layer, and its parts alone: does loading hide behind
computing (paper 4.1)?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hosts.buffers import BufferArena
from hosts.compute import Chunk, ComputeError, Piece, all_layers, open_compute
from hosts.config import ComputeConfig, EngineConfig, Geometry
from hosts.content import fill_blocks, mismatched, salts
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
    """A prompt of ``shape`` in page-locked memory and an engine for it, until closed."""

    def __init__(self, shape: PromptShape, config: ComputeConfig) -> None:
        self.shape, geometry = shape, shape.geometry
        cached, new = (-(-t // shape.block_tokens) for t in (shape.cached_tokens, shape.new_tokens))
        nbytes = (cached + new) * geometry.full_block_bytes
        memory = BufferArena(nbytes, _PAGE_BYTES, pages="transparent").view
        self._blocks = memory[:nbytes].reshape(cached + new, geometry.full_block_bytes)
        fill_blocks(self._blocks[:cached], _SEED, np.arange(cached))
        self._kv = {moves: _KvInMemory(self._blocks, cached, geometry, moves) for moves in (True, False)}
        self._layers = geometry.layers
        self._compute = open_compute(config, _engine(shape), 1, geometry, _SEED, memory)

    async def close(self) -> None:
        """Give everything back."""
        await self._compute.close()

    async def verify(self) -> None:
        """One pass; raises `ComputeError` if its KV does not come back as it has to."""
        await self._run("together")
        wrong = mismatched(self._blocks, _SEED, np.arange(len(self._blocks)))
        if len(wrong):
            raise ComputeError(
                f"{self.shape.model}: {len(wrong)} of {len(self._blocks)} blocks are wrong after a pass, "
                f"block {wrong[0]} first: a copy to or from the device, or its memory, is not to be trusted"
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
            await all_layers(forward, self._layers)


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
