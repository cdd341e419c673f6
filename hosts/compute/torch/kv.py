"""KV in a device's memory: slots of true size for Layer Blocks, copies to and from host memory, new content.

A scaled-down experiment has fewer bytes than a Layer Block in host memory: they fill the beginning of its
slot. The rest is copied from a filler, and to memory that nobody reads, so that copies take as long as in
true size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hosts.compute.torch.copying import CopyLane
from hosts.config import Geometry
from hosts.content import pattern
from workloads.models import Model

_WORD_BYTES = 8


class KvMemory:
    """How one device holds the KV of ``model``, moved as Layer Blocks of ``geometry``; ``filler`` is host
    memory, half of it numbers and half of it room, at least a slot each."""

    def __init__(
        self,
        model: Model,
        geometry: Geometry,
        content_seed: int,
        device: torch.device,
        filler: NDArray[np.uint8],
    ) -> None:
        self.device, self._moved_bytes = device, geometry.layer_block_bytes
        self._filler, self._nowhere = filler[: len(filler) // 2], filler[len(filler) // 2 :]
        self.layers, self.block_tokens = geometry.layers, geometry.block_tokens
        self._entry_bytes = model.layer_kv_bytes_per_token
        self._slot_bytes = self.block_tokens * self._entry_bytes
        words = torch.from_numpy(pattern(content_seed, geometry.full_block_bytes).view(np.uint8).copy())
        self._pattern = words.to(device)
        self._byte_of_word = torch.arange(len(words), device=device) % _WORD_BYTES

    def blocks_of(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def empty(self, *blocks: int) -> torch.Tensor:
        """Slots [..., blocks, slot_bytes], with whatever was there."""
        return torch.empty((*blocks, self._slot_bytes), dtype=torch.uint8, device=self.device)

    def entries(self, slots: torch.Tensor, tokens: int) -> torch.Tensor:
        """The first ``tokens`` of slots [blocks, slot_bytes], as [tokens, entry_bytes]."""
        return slots.view(-1, self._entry_bytes)[:tokens]

    def load(self, lane: CopyLane, rows: Sequence[NDArray[np.uint8]], slots: torch.Tensor) -> None:
        """Host rows, one part after the other, to the first slots."""
        first = 0
        for part in rows:
            if len(part):
                lane.load(part, slots[first : first + len(part), : self._moved_bytes])
            first += len(part)
        for rest, filler in self._rests(slots[:first], self._filler):
            lane.load(filler, rest)

    def unload(self, lane: CopyLane, slots: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """Slots to host rows."""
        lane.unload(slots[:, : self._moved_bytes], rows)
        for rest, nowhere in self._rests(slots, self._nowhere):
            lane.unload(rest, nowhere)

    def _rests(
        self, slots: torch.Tensor, memory: NDArray[np.uint8]
    ) -> Iterator[tuple[torch.Tensor, NDArray[np.uint8]]]:
        """What of ``slots`` has no bytes in host memory, and as many of ``memory``, some rows at a time."""
        rest_bytes = self._slot_bytes - self._moved_bytes
        if rest_bytes:
            for part in slots[:, self._moved_bytes :].split(len(memory) // rest_bytes):
                yield part, memory[: part.numel()].reshape(len(part), rest_bytes)

    def on_device(self, salts: NDArray[np.uint64]) -> torch.Tensor:
        """The salts of blocks, as `write_new` takes them."""
        return torch.from_numpy(salts.view(np.uint8).reshape(-1, _WORD_BYTES).copy()).to(self.device)

    def write_new(self, layer: int, salts: torch.Tensor, slots: torch.Tensor) -> None:
        """The content of a layer of new blocks (`hosts.content`), as computing would leave it there."""
        columns = slice(layer * self._moved_bytes, (layer + 1) * self._moved_bytes)
        slots[:, : self._moved_bytes] = self._pattern[columns] ^ salts[:, self._byte_of_word[columns]]
