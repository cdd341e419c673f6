"""The resources of one host, opened once from its configuration and freed together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hosts.buffers import BufferArena
from hosts.claim import claimed
from hosts.compute import Compute, NicPath, open_compute
from hosts.content import mismatched
from hosts.protocol import HostConfig, Transfer, TransferKind
from hosts.rails import share
from hosts.storage import Storage, open_storage
from hosts.storage.reader import ReadQueue
from hosts.transport import Connection, Region, Transport, open_transport
from workloads.layout import Span

_ALIGNMENT_BYTES = 4096
BUFFER_SLACK = 0.5
"""Memory beside the buffer, as a share of it, that makes up for holes."""
_LOGGED_BLOCKS = 8
_log = logging.getLogger("dualpath.host")


class Rail(NamedTuple):
    """A compute NIC: its transport, and the host's buffer as registered with it."""

    transport: Transport
    region: Region


@dataclass(slots=True)
class Host:
    """Buffers, storage, compute NICs and clock shared by everything an agent does.

    ``arena`` is the host-DRAM buffer of the paper (PE or DE buffer, 4.1), which every one of the ``rails``
    reaches. What belongs to an engine goes through its rail (`share`). ``peers`` are the addresses of other
    hosts' rails. ``began_at_ns`` is the zero of this repetition on this host's clock,
    ``layerwise`` whether its prefill holds one layer's KV at a time.
    """

    config: HostConfig
    arena: BufferArena
    rails: tuple[Rail, ...]
    storage: Storage
    reads: ReadQueue
    peers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    began_at_ns: int = 0
    layerwise: bool = True

    def rail(self, engine: int) -> Rail:
        """That of an engine, of this host or of a peer; all hosts have as many."""
        return self.rails[share(engine, self.config.engines, len(self.rails))]

    async def peer(self, host: str, engine: int) -> Connection:
        """The connection to another host's agent for what belongs to a prefill engine: by its rail at both
        ends, as fabrics have a switch a rail."""
        addresses = self.peers[host]
        there = addresses[share(engine, self.config.engines, len(addresses))]
        return await self.rail(engine).transport.connect(there)

    def blocks(self, offset: int, count: int) -> NDArray[np.uint8]:
        """``count`` Full Blocks of the buffer from byte ``offset``: [count, full_block_bytes]."""
        block_bytes = self.config.geometry.full_block_bytes
        return self.arena.view[offset : offset + count * block_bytes].reshape(count, block_bytes)

    def layer_rows(self, layer: int, offset: int, blocks: range) -> NDArray[np.uint8]:
        """A layer of some of the Full Blocks from byte ``offset`` on: [blocks, layer_block_bytes]."""
        layer_bytes = self.config.geometry.layer_block_bytes
        columns = slice(layer * layer_bytes, (layer + 1) * layer_bytes)
        return self.blocks(offset, blocks.stop)[blocks.start :, columns]

    async def read_hit(self, spans: Sequence[Span], offset: int) -> Transfer:
        """Read the hit prefix from storage into the buffer at ``offset``, as Full Blocks."""
        block_bytes = self.config.geometry.full_block_bytes
        begin_at_ns, at, parts = self.now_ns(), offset, []
        for span in spans:
            end = at + span.blocks * block_bytes
            parts.append((span.key, span.offset * block_bytes, self.arena.view[at:end].data))
            at = end
        await self.reads.read(parts)
        return self.transfer("storage_read", "storage", at - offset, len(parts), begin_at_ns)

    def transfer(
        self, kind: TransferKind, peer: str, nbytes: int, operations: int, begin_at_ns: int
    ) -> Transfer:
        """The record of a stage that ends now."""
        return Transfer(kind, self.config.host, peer, nbytes, operations, begin_at_ns, self.now_ns())

    def now_ns(self) -> int:
        """Monotonic nanoseconds since the repetition began on this host."""
        return time.monotonic_ns() - self.began_at_ns

    def sample(self, turn_id: int, blocks: int) -> NDArray[np.int64]:
        """Which of a turn's ``blocks`` to verify: the first, the last, and one in ``verify_every``."""
        every = self.config.verify_every
        chosen = np.arange(turn_id % every, blocks, every, dtype=np.int64)
        return np.unique(np.append(chosen, [0, blocks - 1])) if blocks else chosen

    def clear_sample(self, turn_id: int, offset: int, blocks: int) -> None:
        """Zero the blocks that will be verified, so that what an earlier turn left cannot pass for them."""
        self.blocks(offset, blocks)[self.sample(turn_id, blocks)] = 0

    def verify(self, turn_id: int, offset: int, ids: NDArray[np.int64]) -> tuple[int, int]:
        """Check sampled blocks at ``offset`` against their content function: (verified, mismatched)."""
        at = self.sample(turn_id, len(ids))
        wrong = mismatched(self.blocks(offset, len(ids))[at], self.config.content_seed, ids[at])
        self.log_mismatch(turn_id, ids[at[wrong]])
        return len(at), len(wrong)

    def log_mismatch(self, turn_id: int, ids: NDArray[np.int64]) -> None:
        """Name the blocks ``ids``, if any, whose bytes are wrong here."""
        if len(ids):
            shown = ", ".join(map(str, ids[:_LOGGED_BLOCKS].tolist()))
            _log.error("turn %d: %d blocks differ from their content: %s ...", turn_id, len(ids), shown)


@asynccontextmanager
async def open_host(config: HostConfig) -> AsyncIterator[Host]:
    """Open everything ``config`` asks for; free it in the reverse order, also on failure."""
    async with AsyncExitStack() as stack:
        if config.claim is not None:
            await stack.enter_async_context(claimed(config.claim))
        storage = await open_storage(config.storage)
        stack.push_async_callback(storage.close)
        reads = ReadQueue(storage, config.storage.read_streams, config.storage.read_chunk_bytes)
        stack.push_async_callback(reads.close)
        transports = []
        for rail in config.rails:
            transports.append(await open_transport(rail.transport))
            stack.push_async_callback(transports[-1].close)
        slack_bytes = int(config.buffer_bytes * BUFFER_SLACK)
        arena = BufferArena(config.buffer_bytes, _ALIGNMENT_BYTES, slack_bytes, config.buffer_pages)
        rails = tuple(Rail(transport, transport.register(arena.view)) for transport in transports)
        storage.register(arena.view.data)
        yield Host(config, arena, rails, storage, reads)


async def opened_compute(host: Host) -> Compute:
    """What computes on the host, which is its caller's to close.

    In a thread: importing torch and making weights takes longer than the control node waits for a sign.
    Who is cancelled meanwhile waits for it, and gives back what it has taken.
    """
    config = host.config
    nics = [await NicPath.open(*rail) for rail in host.rails] if config.compute.copy == "nic" else []
    opening = asyncio.ensure_future(
        asyncio.to_thread(
            open_compute,
            config.compute,
            config.engine,
            config.engines,
            config.geometry,
            config.content_seed,
            host.arena.view,
            nics,
        )
    )
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await opening.result().close()
        raise
