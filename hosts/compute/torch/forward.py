"""A forward pass: H2D, kernels and D2H of its layers on lanes of their own (paper 4.1, layerwise prefill).

While a layer computes, the KV of the next one is copied in, and what the one before has computed is copied
out. HBM holds two layers of the batch, or, without layerwise prefill, has all of them already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import torch

from hosts.compute.base import Chunk
from hosts.compute.torch.device import Mark, TimedMark
from hosts.compute.torch.engine import Engine, all_idle
from hosts.compute.torch.residence import Residence

RING_LAYERS = 2


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that the device was given: computed from ``begins`` to ``computed``; when it is ``done``, its
    new KV is in host memory."""

    begins: TimedMark
    computed: TimedMark
    done: Mark


@dataclass(frozen=True, slots=True)
class _Part:
    """A chunk in an engine's batch: its ``blocks`` of the ring or, if it is resident, as many, and what the
    new ones differ by."""

    chunk: Chunk
    blocks: range
    salts: torch.Tensor | None

    @property
    def loads(self) -> bool:
        """Whether its cached KV is copied in layer by layer."""
        return self.chunk.kv.moves and self.chunk.resident is None


class EnginePass:
    """What one engine does of a pass: ``batch`` are its own chunks, ``mlp_tokens`` and ``heads`` its share of
    all engines' (paper 6.2). But for making one, all of it is for the engine's thread."""

    def __init__(self, engine: Engine, batch: Sequence[Chunk], mlp_tokens: int, heads: int) -> None:
        self._engine, self._batch = engine, batch
        self._mlp_tokens, self._heads = mlp_tokens, heads
        self._given: list[_Layer] = []

    def prepare(self) -> None:
        """Room for the batch, and what its new blocks differ by."""
        memory, first = self._engine.memory, 0
        self._parts: list[_Part] = []
        for chunk in self._batch:
            blocks = range(first, first + memory.blocks_of(sum(chunk.piece)))
            first = blocks.stop if chunk.resident is None else first
            salts = memory.on_device(chunk.kv.new_salts()) if chunk.kv.moves else None
            self._parts.append(_Part(chunk, blocks, salts))
        self._ring = memory.empty(RING_LAYERS, first)

    def layer(self, number: int) -> _Layer:
        """Copy in, compute, copy out."""
        engine, slots = self._engine, [self._slots(part, number) for part in self._parts]
        if number >= RING_LAYERS:
            engine.copy_in.after(self._given[number - RING_LAYERS].done)
        self._copy_in(number, slots)
        engine.computing.after(engine.copy_in.mark())
        begins = engine.computing.mark()
        self._write_new(number, slots)
        written = engine.computing.mark()
        self._compute(number, slots)
        computed = engine.computing.mark()
        engine.copy_out.after(written)
        self._copy_out(number, slots)
        engine.copy_out.after(computed)
        self._given.append(_Layer(begins, computed, engine.copy_out.mark()))
        return self._given[-1]

    def _copy_in(self, layer: int, slots: Sequence[torch.Tensor]) -> None:
        engine = self._engine
        for part, its in zip(self._parts, slots, strict=True):
            if part.loads:
                engine.memory.load(engine.copy_in, part.chunk.kv.cached_rows(layer), its)

    def _write_new(self, layer: int, slots: Sequence[torch.Tensor]) -> None:
        with self._engine.computing.entered():
            for part, its in zip(self._parts, slots, strict=True):
                if part.salts is not None:
                    self._engine.memory.write_new(layer, part.salts, its[len(its) - len(part.salts) :])

    def _compute(self, layer: int, slots: Sequence[torch.Tensor]) -> None:
        layers, memory = self._engine.layers, self._engine.memory
        with self._engine.computing.entered():
            pieces = [part.chunk.piece for part in self._parts]
            entries = [
                (memory.entries(its, sum(piece)), piece.new_tokens)
                for piece, its in zip(pieces, slots, strict=True)
            ]
            layers.compute(layer, entries, self._mlp_tokens)
            if layer == memory.layers - 1:
                layers.finish(self._heads)

    def _copy_out(self, layer: int, slots: Sequence[torch.Tensor]) -> None:
        engine = self._engine
        for part, its in zip(self._parts, slots, strict=True):
            if part.salts is not None:
                new = its[len(its) - len(part.salts) :]
                engine.memory.unload(engine.copy_out, new, part.chunk.kv.new_rows(layer))

    def _slots(self, part: _Part, layer: int) -> torch.Tensor:
        if isinstance(part.chunk.resident, Residence):
            return part.chunk.resident.slots[layer][: len(part.blocks)]
        return self._ring[layer % RING_LAYERS, part.blocks.start : part.blocks.stop]


class TorchForward:
    """See `Forward`."""

    def __init__(self, engines: Sequence[Engine], batches: Sequence[Sequence[Chunk]]) -> None:
        self._engines = engines
        chunks = [chunk for batch in batches for chunk in batch]
        mlp_tokens = -(-sum(chunk.piece.new_tokens for chunk in chunks) // len(engines))
        heads = -(-len(chunks) // len(engines))
        self._passes = [
            EnginePass(engine, batch, mlp_tokens, heads)
            for engine, batch in zip(engines, batches, strict=True)
        ]
        self._given: list[list[Future[_Layer]]] = []
        self.compute_ns = 0

    async def __aenter__(self) -> TorchForward:
        prepared = [e.ask(p.prepare) for e, p in zip(self._engines, self._passes, strict=True)]
        await asyncio.gather(*map(asyncio.wrap_future, prepared))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Until the devices have let go of the chunks' memory."""
        await all_idle(self._engines)

    def begin(self, layer: int, ready_at_ns: int) -> None:
        """See `Forward`."""
        self._given.append(
            [e.ask(partial(p.layer, layer)) for e, p in zip(self._engines, self._passes, strict=True)]
        )

    async def computed(self, layer: int) -> None:
        """See `Forward`."""
        given = await asyncio.gather(*map(asyncio.wrap_future, self._given[layer]))
        taken_ns = 0
        for engine, its in zip(self._engines, given, strict=True):
            await engine.wait(engine.copy_out, its.done)
            taken_ns = max(taken_ns, await engine.computed_ns(its.begins, its.computed))
        self.compute_ns += taken_ns
