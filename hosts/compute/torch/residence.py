"""A prompt's KV of all layers in an engine's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch

from hosts.compute.base import CachedKv
from hosts.compute.torch.device import Mark
from hosts.compute.torch.engine import Engine, all_idle


class Residence:
    """See `ResidentKv`. ``slots`` are each layer's [blocks, slot_bytes]: pieces of that size leave few holes
    between them."""

    def __init__(self, slots: Sequence[torch.Tensor]) -> None:
        self._slots: Sequence[torch.Tensor] | None = slots

    @property
    def slots(self) -> Sequence[torch.Tensor]:
        """Raises RuntimeError after `free`."""
        if self._slots is None:
            raise RuntimeError("KV that was freed is asked for")
        return self._slots

    def free(self) -> None:
        """See `ResidentKv`. What a step that is under way reads from then on does not matter."""
        self._slots = None


async def load(engine: Engine, kv: CachedKv, tokens: int) -> Residence:
    """Copy all layers of ``kv`` to the engine, where there is room for ``tokens`` then."""
    memory = engine.memory

    def copy() -> tuple[Residence, Mark]:
        slots = [memory.empty(memory.blocks_of(tokens)) for _ in range(memory.layers)]
        for layer in range(memory.layers):
            memory.load(engine.copy_in, kv.cached_rows(layer), slots[layer])
        return Residence(slots), engine.copy_in.mark()

    try:
        residence, copied = await asyncio.wrap_future(engine.ask(copy))
        await engine.wait(engine.copy_in, copied)
    except BaseException:
        await all_idle([engine])  # the rows may be given to somebody else after this
        raise
    return residence
