"""Decode steps: every layer's attention over the resident KV of each request, and its share of the MLPs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from hosts.compute.base import Decoding
from hosts.compute.torch.device import Mark
from hosts.compute.torch.engine import Engine
from hosts.compute.torch.residence import Residence

_AT_ONCE = 8
"""Layers."""


class TorchDecode:
    """See `DecodeSteps`."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines

    async def step(self, batches: Sequence[Sequence[Decoding]]) -> None:
        """See `DecodeSteps`."""
        share = -(-sum(map(len, batches)) // len(self._engines))
        steps = [
            _Step(engine, [_Taken.of(request) for request in batch], share)
            for engine, batch in zip(self._engines, batches, strict=True)
        ]
        for step in steps:
            step.ask()
        await asyncio.gather(*(step.computed() for step in steps))


class _Taken(NamedTuple):
    """A request as it is when a step is asked for: it may be given up while the step is made."""

    keys: int
    slots: Sequence[torch.Tensor] | None

    @classmethod
    def of(cls, request: Decoding) -> _Taken:
        """Its layers' KV, None if none was moved, and the keys that it sees now."""
        resident = request.resident
        return cls(request.context_tokens + 1, resident.slots if isinstance(resident, Residence) else None)


class _Step:
    """One token of an engine: attention of its ``batch``, MLPs and head of its ``share`` of all requests."""

    def __init__(self, engine: Engine, batch: Sequence[_Taken], share: int) -> None:
        self._engine, self._batch, self._share = engine, batch, share

    def ask(self) -> None:
        """Some layers at a time: in between, the engine's thread comes to ask for copies."""
        engine, layers = self._engine, range(self._engine.memory.layers)
        parts = [layers[first : first + _AT_ONCE] for first in layers[::_AT_ONCE]]
        self._asked = [
            engine.ask(self._prepare),
            *(engine.ask(partial(self._compute, part)) for part in parts),
        ]
        self._end = engine.ask(self._finish)

    async def computed(self) -> None:
        """Until the device is done."""
        await asyncio.gather(*map(asyncio.wrap_future, self._asked))
        await self._engine.wait(self._engine.computing, await asyncio.wrap_future(self._end))

    def _prepare(self) -> None:
        self._slots = [_slots(self._engine, request) for request in self._batch]

    def _compute(self, layers: range) -> None:
        engine = self._engine
        with engine.computing.entered():
            for layer in layers:
                entries = [
                    (engine.memory.entries(its[layer % len(its)], request.keys), 1)
                    for request, its in zip(self._batch, self._slots, strict=True)
                ]
                engine.layers.compute(layer, entries, self._share)

    def _finish(self) -> Mark:
        with self._engine.computing.entered():
            self._engine.layers.finish(self._share)
        return self._engine.computing.mark()


def _slots(engine: Engine, request: _Taken) -> Sequence[torch.Tensor]:
    """Each layer's [blocks, slot_bytes]; of a request whose KV was not moved, one's that stands for all."""
    if request.slots is not None:
        return request.slots
    return [engine.memory.empty(engine.memory.blocks_of(request.keys))]
