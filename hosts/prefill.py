"""The prefill host's part of a turn (paper 4.1): load hit KV, compute layer by layer, hand over.

PE read path: storage -> PE buffer as Full Blocks, then each layer's hit and missed KV -> DE buffer.
DE read path: each layer's hit KV, DE buffer -> here, prefetched while earlier layers compute; then
only the missed tokens' KV of that layer -> DE buffer, where the hit KV already is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hosts.buffers import Allocation
from hosts.content import fill_blocks
from hosts.host import Host
from hosts.protocol import PrefillDone, PrefillRequest, Transfer, encode
from hosts.transport import Connection, Region, RemoteRegion, Strided
from workloads.layout import from_ranges

# Layers of hit KV on their way from the DE buffer while one computes: hides a round trip a layer.
_PREFETCH_LAYERS = 3
_MAX_WRITES_IN_FLIGHT = 8
_UNSAVED_BLOCK_ID = -1  # content id of a partially filled last block: never persisted, never shared


class PrefillService:
    """Serves prefill requests, FIFO on each engine. ``on_read_done`` tells the control node."""

    def __init__(self, host: Host, on_read_done: Callable[[int], Awaitable[None]]) -> None:
        self._host = host
        self._on_read_done = on_read_done
        self._engines = [asyncio.Lock() for _ in range(host.config.engines)]

    async def serve(self, request: PrefillRequest) -> None:
        """Allocate, load (PE read path), queue for the engine, compute and hand over, answer."""
        pass_ = _ForwardPass(self._host, request, await self._host.peer(request.decode_host))
        await pass_.allocate()
        try:
            if request.order.path == "prefill":
                await pass_.load()
                await self._on_read_done(request.order.turn_id)
            queued_at_ns = time.monotonic_ns()
            async with self._engines[request.order.prefill_engine]:
                await pass_.run(engine_wait_ns=time.monotonic_ns() - queued_at_ns)
        finally:
            pass_.free()


class _ForwardPass:
    """One prefill: its buffer, its transfers, its stage times.

    Buffer layout: PE path [hit + new, full_block]; DE path [prefetch ring, hit, layer_block] and
    [new, full_block]; oracle: nothing moves, nothing is allocated.
    """

    def __init__(self, host: Host, request: PrefillRequest, decode_host: Connection) -> None:
        order, geometry = request.order, host.config.geometry
        self._host, self._request, self._order, self._peer = host, request, order, decode_host
        self._layers, self._layer_bytes = geometry.layers, geometry.layer_block_bytes
        self._block_bytes = geometry.full_block_bytes
        ids = from_ranges(order.new_blocks)
        self._new_ids = np.append(ids, _UNSAVED_BLOCK_ID) if order.tail_tokens else ids
        self._hit_ids = from_ranges(order.hit_blocks)
        self._hits, self._new = len(self._hit_ids), len(self._new_ids)
        self._slot_bytes = self._hits * self._layer_bytes
        self._ring = min(_PREFETCH_LAYERS, self._layers)
        self._held: Allocation | None = None
        self._transfers: list[Transfer] = []
        self._allocate_ns = self._read_ns = 0
        self._verified = self._mismatched = 0

    async def allocate(self) -> None:
        """Wait for buffer space; the decode host already holds its own, so this cannot deadlock."""
        began_ns = time.monotonic_ns()
        hit_bytes = {
            "prefill": self._hits * self._block_bytes,
            "decode": self._ring * self._slot_bytes,
            "none": 0,
        }[self._order.path]
        self._new_offset = hit_bytes
        if self._order.path != "none":
            self._held = await self._host.arena.allocate(hit_bytes + self._new * self._block_bytes)
            self._offset = self._held.offset
            self._new_offset += self._offset
            self._allocate_ns = time.monotonic_ns() - began_ns

    def free(self) -> None:
        """Give the buffer back."""
        if self._held is not None:
            self._host.arena.free(self._held)

    async def load(self) -> None:
        """PE read path, step 1: hit KV, storage -> PE buffer."""
        self._host.clear_sample(self._order.turn_id, self._offset, self._hits)
        read = await self._host.read_hit(self._order.reads, self._offset)
        self._read_ns = read.end_at_ns - read.begin_at_ns
        self._transfers.append(read)

    async def run(self, engine_wait_ns: int) -> None:
        """Every layer on the engine, then tell the decode host."""
        began_ns = time.monotonic_ns()
        forward = self._host.compute.prefill(self._order.hit_tokens, self._order.new_tokens)
        if self._order.path != "none":
            new_kv = self._host.blocks(self._new_offset, self._new)
            fill_blocks(new_kv, self._host.config.content_seed, self._new_ids)
        if self._order.path == "decode":
            await self._layers_from_decode_host(forward.layer)
        elif self._order.path == "prefill":
            await self._layers_from_buffer(forward.layer)
        else:
            for _ in range(self._layers):
                await forward.layer()
        done = PrefillDone(
            turn_id=self._order.turn_id,
            allocate_ns=self._allocate_ns,
            read_ns=self._read_ns,
            engine_wait_ns=engine_wait_ns,
            compute_ns=forward.compute_ns,
            transfer_ns=max(0, time.monotonic_ns() - began_ns - forward.compute_ns),
            verified_blocks=self._verified,
            mismatched_blocks=self._mismatched,
            transfers=tuple(self._transfers),
        )
        await self._peer.notify(encode(done))

    async def _layers_from_buffer(self, compute: Callable[[int], Awaitable[None]]) -> None:
        """Hit and missed KV lie together in the PE buffer: one strided write a layer."""
        blocks = self._hits + self._new
        async with self._layer_writes() as writes:
            for layer in range(self._layers):
                await compute(0)
                await writes.post(
                    self._local(self._offset, layer, blocks),
                    self._remote(layer, first_block=0, blocks=blocks),
                )

    async def _layers_from_decode_host(self, compute: Callable[[int], Awaitable[None]]) -> None:
        """Prefetch each layer's hit KV, compute when it is here, write back the missed tokens' KV."""
        begin_at_ns = self._host.now_ns()
        pending: deque[asyncio.Task[int]] = deque()
        try:
            async with self._layer_writes() as writes:
                for layer in range(self._layers):
                    while len(pending) < self._ring and layer + len(pending) < self._layers:
                        pending.append(asyncio.create_task(self._fetch(layer + len(pending))))
                    await compute(await pending.popleft())
                    self._verify_layer(layer)
                    if self._new:
                        await writes.post(
                            self._local(self._new_offset, layer, self._new),
                            self._remote(layer, first_block=self._hits, blocks=self._new),
                        )
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        self._record("layer_read", self._slot_bytes * self._layers, self._layers, begin_at_ns)

    async def _fetch(self, layer: int) -> int:
        """Read one layer of the hit KV into its ring slot; the moment it arrived."""
        if self._hits:
            if self._verifies(layer):
                self._slot(layer)[self._host.sample(self._order.turn_id, self._hits)] = 0
            local = Strided(self._offset + layer % self._ring * self._slot_bytes, self._slot_bytes)
            remote = self._remote(layer, first_block=0, blocks=self._hits)
            await self._peer.read(self._host.region, local, self._target(), remote)
        return time.monotonic_ns()

    def _verifies(self, layer: int) -> bool:
        """One layer a turn is checked on its way back from the decode host, too."""
        return layer == self._order.turn_id % self._layers and self._hits > 0

    def _slot(self, layer: int) -> NDArray[np.uint8]:
        """Where a layer's hit KV lies: [hit, layer_block]."""
        begin = self._offset + layer % self._ring * self._slot_bytes
        return self._host.region.view[begin : begin + self._slot_bytes].reshape(self._hits, self._layer_bytes)

    def _verify_layer(self, layer: int) -> None:
        """Sampled blocks of the one layer against their content."""
        if not self._verifies(layer):
            return
        at = self._host.sample(self._order.turn_id, self._hits)
        expected = np.empty((len(at), self._block_bytes), np.uint8)
        fill_blocks(expected, self._host.config.content_seed, self._hit_ids[at])
        columns = slice(layer * self._layer_bytes, (layer + 1) * self._layer_bytes)
        wrong = (self._slot(layer)[at] != expected[:, columns]).any(axis=1)
        self._host.log_mismatch(self._order.turn_id, self._hit_ids[at[wrong]])
        self._verified += len(at)
        self._mismatched += int(wrong.sum())

    @asynccontextmanager
    async def _layer_writes(self) -> AsyncIterator[_Writes]:
        """Writes to the decode host; at the end all are placed there, and recorded as one stage."""
        begin_at_ns = self._host.now_ns()
        writes = _Writes(self._peer, self._host.region, self._target())
        try:
            yield writes
            await writes.all_placed()
        finally:
            await writes.cancel()
        self._record("layer_write", writes.bytes, writes.operations, begin_at_ns)

    def _record(
        self, kind: Literal["layer_read", "layer_write"], nbytes: int, operations: int, begin_at_ns: int
    ) -> None:
        self._transfers.append(
            self._host.transfer(kind, self._request.decode_host, nbytes, operations, begin_at_ns)
        )

    def _target(self) -> RemoteRegion:
        assert self._request.target is not None, "a path that moves KV has a decode buffer"
        return self._request.target

    def _local(self, offset: int, layer: int, blocks: int) -> Strided:
        """Layer ``layer`` of ``blocks`` Full Blocks at ``offset`` of this host's buffer."""
        return Strided(offset + layer * self._layer_bytes, self._layer_bytes, blocks, self._block_bytes)

    def _remote(self, layer: int, first_block: int, blocks: int) -> Strided:
        """Layer ``layer`` of ``blocks`` Full Blocks in the decode host's buffer."""
        offset = self._request.target_offset + first_block * self._block_bytes + layer * self._layer_bytes
        return Strided(offset, self._layer_bytes, blocks, self._block_bytes)


class _Writes:
    """Writes in flight while later layers compute; the oldest is awaited when there are many."""

    def __init__(self, peer: Connection, region: Region, target: RemoteRegion) -> None:
        self._peer, self._region, self._target = peer, region, target
        self._tasks: deque[asyncio.Task[None]] = deque()
        self.bytes = self.operations = 0

    async def post(self, local: Strided, remote: Strided) -> None:
        """Start a write from the local to the remote descriptor."""
        self._tasks.append(asyncio.create_task(self._peer.write(self._region, local, self._target, remote)))
        self.bytes += local.nbytes
        self.operations += 1
        if len(self._tasks) > _MAX_WRITES_IN_FLIGHT:
            await self._tasks.popleft()

    async def all_placed(self) -> None:
        """Wait until every write has been acknowledged."""
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        """Give up whatever is still in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
