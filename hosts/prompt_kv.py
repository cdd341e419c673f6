"""One prompt's KV on the prefill host (paper 4.1): its part of the hit from storage, each layer to the
engine and back to the decode host.

The hit is a prefix that the decode host reads and a rest that this host reads; either may be empty.
Before a layer is computed, its KV of the decode host's part is fetched from the DE buffer as Layer
Blocks; after it, its KV of this host's part and of the missed tokens is written there, where the
decode host's part already is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hosts.buffers import Allocation
from hosts.compute import ResidentKv
from hosts.content import fill_blocks, salts
from hosts.host import Host
from hosts.protocol import PrefillRequest, Transfer
from hosts.transport import Connection, RemoteRegion, Strided
from workloads.layout import from_ranges

# Layers of the decode host's part on their way while one computes: hides a round trip a layer.
_PREFETCH_LAYERS = 2
_MAX_WRITES_IN_FLIGHT = 8
_UNSAVED_BLOCK_ID = -1  # content id of a partially filled last block: never persisted, never shared


class PromptKv:
    """Buffer layout: [ring, decode_blocks, layer_block] and [prefill_blocks + new, full_block].

    ``ring`` slots hold the decode host's part of one layer each: a few layers' or, without layerwise
    prefill, every layer's. Where nothing moves (oracle) nothing is allocated.

    A pass computes the chunk that was begun last. ``resident``: without layerwise prefill, its KV in HBM.
    """

    def __init__(self, host: Host, request: PrefillRequest, decode_host: Connection) -> None:
        order, geometry = request.order, host.config.geometry
        self.order, self._host, self._request, self._peer = order, host, request, decode_host
        self._region = host.rail(order.prefill_engine).region
        self.layers, self._layer_bytes = geometry.layers, geometry.layer_block_bytes
        self._block_bytes, self._block_tokens = geometry.full_block_bytes, geometry.block_tokens
        ids = from_ranges(order.new_blocks)
        self._new_ids = np.append(ids, _UNSAVED_BLOCK_ID) if order.tail_tokens else ids
        self._hit_ids = from_ranges(order.hit_blocks)
        self._decode_blocks = sum(span.blocks for span in order.decode_reads)
        self._prefill_blocks = sum(span.blocks for span in order.prefill_reads)
        self._slot_bytes = self._decode_blocks * self._layer_bytes
        self._ahead = min(_PREFETCH_LAYERS, self.layers) if host.layerwise else self.layers
        self._ring = min(self._ahead + 1, self.layers)  # one more is being computed
        self._held: Allocation | None = None
        self._fetching: deque[asyncio.Task[int]] = deque()
        self._writing: deque[asyncio.Task[None]] = deque()
        self._moved = {"layer_read": _Moved(), "layer_write": _Moved()}
        self._read: Transfer | None = None
        self._computed_tokens = self._handed_over_blocks = 0
        self._chunk_over_tokens = order.hit_tokens
        self._chunk_blocks = range(0)
        self.resident: ResidentKv | None = None
        self.allocate_ns = self.read_ns = self.verified = self.mismatched = self.chunks = 0

    @property
    def cached_tokens(self) -> int:
        """Hit tokens and those that earlier chunks computed."""
        return self.order.hit_tokens + self._computed_tokens

    @property
    def remaining_tokens(self) -> int:
        """Tokens that are still to be computed."""
        return self.order.new_tokens - self._computed_tokens

    @property
    def moves(self) -> bool:
        """See `PassKv`."""
        return self.order.moves

    @property
    def copied_tokens(self) -> int:
        """See `CachedKv`: all that the chunk is computed over but for the decode host's part, which comes
        over the network (paper 4.1)."""
        return self._chunk_over_tokens - self._decode_blocks * self._block_tokens if self.moves else 0

    def cached_rows(self, layer: int) -> Sequence[NDArray[np.uint8]]:
        """See `CachedKv`."""
        here = range(self._prefill_blocks + self._chunk_blocks.start)
        local = self._host.layer_rows(layer, self._local_offset, here)
        return (self._slot(layer), local) if self._decode_blocks else (local,)

    def new_rows(self, layer: int) -> NDArray[np.uint8]:
        """See `PassKv`."""
        first, end = self._chunk_blocks.start, self._chunk_blocks.stop
        new = range(self._prefill_blocks + first, self._prefill_blocks + end)
        return self._host.layer_rows(layer, self._local_offset, new)

    def new_salts(self) -> NDArray[np.uint64]:
        """See `PassKv`."""
        return salts(self._host.config.content_seed, self._chunk_ids)

    def fill_new(self) -> None:
        """See `PassKv`."""
        if self.moves:
            first = self._prefill_blocks + self._chunk_blocks.start
            new = self._host.blocks(self._local_offset, first + len(self._chunk_blocks))[first:]
            fill_blocks(new, self._host.config.content_seed, self._chunk_ids)

    async def allocate(self) -> None:
        """Wait for buffer space; the decode host already holds its own, so this cannot deadlock."""
        if not self.moves:
            return
        began_ns = time.monotonic_ns()
        local_blocks = self._prefill_blocks + len(self._new_ids)
        nbytes = self._ring * self._slot_bytes + local_blocks * self._block_bytes
        self._held = await self._host.arena.allocate(nbytes)
        self._local_offset = self._held.offset + self._ring * self._slot_bytes
        self.allocate_ns = time.monotonic_ns() - began_ns

    async def close(self) -> None:
        """Give up what is still in flight and give the buffer back."""
        unfinished = [*self._fetching, *self._writing]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        if self._held is not None:
            self._host.arena.free(self._held)

    async def read_hit(self) -> None:
        """This host's part of the hit: storage -> PE buffer, as Full Blocks."""
        ids = self._hit_ids[self._decode_blocks :]
        self._host.clear_sample(self.order.turn_id, self._local_offset, len(ids))
        self._read = await self._host.read_hit(self.order.prefill_reads, self._local_offset)
        self.read_ns = self._read.end_at_ns - self._read.begin_at_ns

    def begin_chunk(self, tokens: int) -> None:
        """The next ``tokens`` missed tokens are computed in a forward pass that begins now."""
        self.chunks += 1
        self._chunk_over_tokens = self.cached_tokens
        self._computed_tokens += tokens
        last = self.remaining_tokens == 0
        end = len(self._new_ids) if last else self._computed_tokens // self._block_tokens
        self._chunk_blocks = range(self._chunk_blocks.stop, end)

    async def layer_here(self, layer: int) -> int:
        """The moment when the decode host's part of a layer arrived; later layers are on their way."""
        if not self._decode_blocks:
            return 0
        while len(self._fetching) < self._ahead and layer + len(self._fetching) < self.layers:
            self._fetching.append(asyncio.create_task(self._fetch(layer + len(self._fetching))))
        arrived_at_ns = await self._fetching[0]
        self._fetching.popleft()
        self._verify_layer(layer)
        return arrived_at_ns

    async def hand_over(self, layer: int) -> None:
        """Start a layer's write to the decode host: what it has not yet got of this host's part and the
        computed tokens. Waits for the oldest write when many are under way."""
        local_blocks = self._prefill_blocks + self._chunk_blocks.stop
        count = local_blocks - self._handed_over_blocks
        if self.moves and count:
            local = self._strided(self._local_offset, self._handed_over_blocks, layer, count)
            remote = self._strided(
                self._request.target_offset, self._decode_blocks + self._handed_over_blocks, layer, count
            )
            self._moved["layer_write"].add(local.nbytes, self._host.now_ns())
            write = self._peer.write(self._region, local, self._target(), remote)
            self._writing.append(asyncio.create_task(write))
            if len(self._writing) > _MAX_WRITES_IN_FLIGHT:
                await self._writing.popleft()
        if layer == self.layers - 1:
            self._handed_over_blocks = local_blocks

    async def placed(self) -> None:
        """Everything written is in the decode host's buffer."""
        await asyncio.gather(*self._writing)
        self._moved["layer_write"].end_at_ns = self._host.now_ns()

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What was moved, one stage a kind."""
        stages = () if self._read is None else (self._read,)
        return (*stages, *(self._stage("layer_read")), *(self._stage("layer_write")))

    def _stage(self, kind: Literal["layer_read", "layer_write"]) -> tuple[Transfer, ...]:
        moved, here, peer = self._moved[kind], self._host.config.host, self._request.decode_host
        if not moved.operations:
            return ()
        return (
            Transfer(kind, here, peer, moved.nbytes, moved.operations, moved.begin_at_ns, moved.end_at_ns),
        )

    async def _fetch(self, layer: int) -> int:
        """Read one layer of the decode host's part into its ring slot; the moment it arrived."""
        moved = self._moved["layer_read"]
        moved.add(self._slot_bytes, self._host.now_ns())
        if self._verifies(layer):
            self._slot(layer)[self._host.sample(self.order.turn_id, self._decode_blocks)] = 0
        local = Strided(self._slot_offset(layer), self._slot_bytes)
        remote = self._strided(self._request.target_offset, 0, layer, self._decode_blocks)
        await self._peer.read(self._region, local, self._target(), remote)
        moved.end_at_ns = self._host.now_ns()
        return time.monotonic_ns()

    def _verifies(self, layer: int) -> bool:
        """One layer a turn is checked on its way back from the decode host, too."""
        return layer == self.order.turn_id % self.layers

    def _verify_layer(self, layer: int) -> None:
        """Sampled blocks of the one layer against their content."""
        if not self._verifies(layer):
            return
        at = self._host.sample(self.order.turn_id, self._decode_blocks)
        expected = np.empty((len(at), self._block_bytes), np.uint8)
        fill_blocks(expected, self._host.config.content_seed, self._hit_ids[at])
        columns = slice(layer * self._layer_bytes, (layer + 1) * self._layer_bytes)
        wrong = (self._slot(layer)[at] != expected[:, columns]).any(axis=1)
        self._host.log_mismatch(self.order.turn_id, self._hit_ids[at[wrong]])
        self.verified += len(at)
        self.mismatched += int(wrong.sum())

    def _slot_offset(self, layer: int) -> int:
        assert self._held is not None
        return self._held.offset + layer % self._ring * self._slot_bytes

    def _slot(self, layer: int) -> NDArray[np.uint8]:
        """Where a layer of the decode host's part lies: [decode_blocks, layer_block]."""
        begin = self._slot_offset(layer)
        slot = self._host.arena.view[begin : begin + self._slot_bytes]
        return slot.reshape(self._decode_blocks, self._layer_bytes)

    @property
    def _chunk_ids(self) -> NDArray[np.int64]:
        return self._new_ids[self._chunk_blocks.start : self._chunk_blocks.stop]

    def _target(self) -> RemoteRegion:
        assert self._request.target is not None, "a turn that moves KV has a decode buffer"
        return self._request.target

    def _strided(self, offset: int, first_block: int, layer: int, blocks: int) -> Strided:
        """Layer ``layer`` of ``blocks`` Full Blocks from ``first_block`` on, in a buffer at ``offset``."""
        at = offset + first_block * self._block_bytes + layer * self._layer_bytes
        return Strided(at, self._layer_bytes, blocks, self._block_bytes)


class _Moved:
    """One kind of transfer, summed over a prompt's layers and chunks."""

    def __init__(self) -> None:
        self.nbytes = self.operations = self.begin_at_ns = self.end_at_ns = 0

    def add(self, nbytes: int, begin_at_ns: int) -> None:
        """One more operation, which begins now."""
        self.begin_at_ns = self.begin_at_ns or begin_at_ns
        self.nbytes += nbytes
        self.operations += 1
