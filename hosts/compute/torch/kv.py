"""KV in a device's memory: slots of true size for Layer Blocks, copies to and from host memory, new content.

A scaled-down experiment moves fewer bytes than a Layer Block has: they fill the beginning of its slot, and
attention reads all of the slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hosts.compute.torch.device import Lane
from hosts.config import Geometry
from hosts.content import pattern
from hosts.cuda.copies import Pitched, copy_pitched
from workloads.models import Model

_WORD_BYTES = 8


class KvMemory:
    """How one device holds the KV of ``model``, moved as Layer Blocks of ``geometry``."""

    def __init__(self, model: Model, geometry: Geometry, content_seed: int, device: torch.device) -> None:
        self.device, self._moved_bytes = device, geometry.layer_block_bytes
        self.layers, self.block_tokens = geometry.layers, geometry.block_tokens
        self._entry_bytes = model.layer_kv_bytes_per_token
        words = torch.from_numpy(pattern(content_seed, geometry.full_block_bytes).view(np.uint8).copy())
        self._pattern = words.to(device)
        self._byte_of_word = torch.arange(len(words), device=device) % _WORD_BYTES

    def blocks_of(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def empty(self, *blocks: int) -> torch.Tensor:
        """Slots [..., blocks, slot_bytes], with whatever was there."""
        slot_bytes = self.block_tokens * self._entry_bytes
        return torch.empty((*blocks, slot_bytes), dtype=torch.uint8, device=self.device)

    def entries(self, slots: torch.Tensor, tokens: int) -> torch.Tensor:
        """The first ``tokens`` of slots [blocks, slot_bytes], as [tokens, entry_bytes]."""
        return slots.view(-1, self._entry_bytes)[:tokens]

    def load(self, lane: Lane, rows: Sequence[NDArray[np.uint8]], slots: torch.Tensor) -> None:
        """Host rows, one part after the other, to the first slots."""
        first = 0
        for part in rows:
            target = slots[first : first + len(part), : self._moved_bytes]
            if self.device.type == "cpu":
                target.copy_(torch.from_numpy(part))
            else:
                copy_pitched(_of(target), _here(part), self._moved_bytes, len(part), "h2d", lane.handle)
            first += len(part)

    def unload(self, lane: Lane, slots: torch.Tensor, rows: NDArray[np.uint8]) -> None:
        """Slots to host rows."""
        source = slots[:, : self._moved_bytes]
        if self.device.type == "cpu":
            torch.from_numpy(rows).copy_(source)
        else:
            copy_pitched(_here(rows), _of(source), self._moved_bytes, len(rows), "d2h", lane.handle)

    def on_device(self, salts: NDArray[np.uint64]) -> torch.Tensor:
        """The salts of blocks, as `write_new` takes them."""
        return torch.from_numpy(salts.view(np.uint8).reshape(-1, _WORD_BYTES).copy()).to(self.device)

    def write_new(self, layer: int, salts: torch.Tensor, slots: torch.Tensor) -> None:
        """The content of a layer of new blocks (`hosts.content`), as computing would leave it there."""
        columns = slice(layer * self._moved_bytes, (layer + 1) * self._moved_bytes)
        slots[:, : self._moved_bytes] = self._pattern[columns] ^ salts[:, self._byte_of_word[columns]]


def _of(rows: torch.Tensor) -> Pitched:
    return Pitched(rows.data_ptr(), rows.stride(0))


def _here(rows: NDArray[np.uint8]) -> Pitched:
    return Pitched(rows.ctypes.data, rows.strides[0])
