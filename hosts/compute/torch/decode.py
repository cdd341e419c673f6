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


class TorchDecode:
    """See `DecodeSteps`."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines

    async def step(self, batches: Sequence[Sequence[Decoding]]) -> None:
        """See `DecodeSteps`."""
        requests = -(-sum(map(len, batches)) // len(self._engines))
        asked = [
            engine.ask(partial(_step, engine, [_Taken.of(request) for request in batch], requests))
            for engine, batch in zip(self._engines, batches, strict=True)
        ]
        for engine, mark in zip(
            self._engines, await asyncio.gather(*map(asyncio.wrap_future, asked)), strict=True
        ):
            await engine.wait(engine.computing, mark)


class _Taken(NamedTuple):
    """A request as it is when a step is asked for: it may be given up while the step is made."""

    keys: int
    slots: Sequence[torch.Tensor] | None

    @classmethod
    def of(cls, request: Decoding) -> _Taken:
        """Its layers' KV, None if none was moved, and the keys that it sees now."""
        resident = request.resident
        return cls(request.context_tokens + 1, resident.slots if isinstance(resident, Residence) else None)


def _step(engine: Engine, batch: Sequence[_Taken], share: int) -> Mark:
    """One step: attention of the engine's ``batch``, MLPs and head of its ``share`` of all requests."""
    memory = engine.memory
    with engine.computing.entered():
        slots = [_slots(engine, request) for request in batch]
        for layer in range(memory.layers):
            entries = [
                (memory.entries(its[layer % len(its)], request.keys), 1)
                for request, its in zip(batch, slots, strict=True)
            ]
            engine.layers.compute(layer, entries, share)
        engine.layers.finish(share)
        return engine.computing.mark()


def _slots(engine: Engine, request: _Taken) -> Sequence[torch.Tensor]:
    """Each layer's [blocks, slot_bytes]; of a request whose KV was not moved, one's that stands for all."""
    if request.slots is not None:
        return request.slots
    return [engine.memory.empty(engine.memory.blocks_of(request.keys))]
