"""The decode host's part of a turn (paper 4.1), which owns the turn from order to completion.

Allocate the DE buffer; on the DE read path load the hit KV into it; ask the prefill host; when the
whole prompt's KV is in the buffer, the first token exists; persist the new full blocks, free the
buffer, decode, and persist every block as soon as it is full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from hosts.buffers import Allocation
from hosts.content import fill_blocks
from hosts.host import Host
from hosts.protocol import (
    FirstToken,
    PrefillDone,
    PrefillFailed,
    PrefillRequest,
    ReadDone,
    Transfer,
    TurnDone,
    TurnOrder,
    encode,
)
from workloads.layout import BlockRange, from_ranges

Report = Callable[[ReadDone | FirstToken | TurnDone], Awaitable[None]]


class TurnError(Exception):
    """A turn that this host cannot finish: where and why."""


@dataclass(slots=True)
class _Turn:
    order: TurnOrder
    transfers: list[Transfer] = field(default_factory=list)
    allocate_ns: int = 0
    read_ns: int = 0
    verified: int = 0
    mismatched: int = 0


class DecodeService:
    """Serves turn orders; ``report`` sends an event to the control node."""

    def __init__(self, host: Host, report: Report) -> None:
        self._host = host
        self._report = report
        self._prefilled: dict[int, asyncio.Future[PrefillDone]] = {}

    def on_prefill(self, answer: PrefillDone | PrefillFailed) -> None:
        """The prefill host's answer arrived in band."""
        waiting = self._prefilled.get(answer.turn_id)
        if waiting is None or waiting.done():
            return  # the turn was given up: its repetition is failing already
        if isinstance(answer, PrefillFailed):
            waiting.set_exception(TurnError(answer.reason))
        else:
            waiting.set_result(answer)

    async def serve(self, order: TurnOrder) -> None:
        """One turn; raises TurnError, TransferError, StorageError or TimeoutError."""
        turn = _Turn(order)
        async with asyncio.timeout(self._host.config.turn_timeout_s):
            buffer = await self._allocate(turn)
            try:
                if order.path == "decode":
                    await self._load(turn, buffer)
                done = await self._prefill(turn, buffer)
                first_token_ns = time.monotonic_ns()
                self._verify(turn, buffer)
                await self._report(FirstToken(order.turn_id))
                persisted_bytes, persist_ns = await self._persist_prompt(turn, buffer)
            finally:
                if buffer is not None:
                    self._host.arena.free(buffer)
            generated_bytes, generated_ns = await self._decode(turn, first_token_ns)
            await self._report(
                TurnDone(
                    turn_id=order.turn_id,
                    allocate_ns=turn.allocate_ns + done.allocate_ns,
                    read_ns=turn.read_ns + done.read_ns,
                    engine_wait_ns=done.engine_wait_ns,
                    compute_ns=done.compute_ns,
                    transfer_ns=done.transfer_ns,
                    decode_ns=time.monotonic_ns() - first_token_ns,
                    persist_ns=persist_ns + generated_ns,
                    persisted_bytes=persisted_bytes + generated_bytes,
                    verified_blocks=turn.verified + done.verified_blocks,
                    mismatched_blocks=turn.mismatched + done.mismatched_blocks,
                    transfers=(*turn.transfers, *done.transfers),
                )
            )

    async def _allocate(self, turn: _Turn) -> Allocation | None:
        """DE buffer for the whole prompt: hit, missed and the partially filled last block."""
        order = turn.order
        if order.path == "none":
            return None
        full_blocks = sum(r.count for r in (*order.hit_blocks, *order.new_blocks))
        blocks = full_blocks + (1 if order.tail_tokens else 0)
        began_ns = time.monotonic_ns()
        allocation = await self._host.arena.allocate(blocks * self._host.config.geometry.full_block_bytes)
        turn.allocate_ns = time.monotonic_ns() - began_ns
        self._host.clear_sample(order.turn_id, allocation.offset, full_blocks)
        return allocation

    async def _load(self, turn: _Turn, buffer: Allocation | None) -> None:
        """DE read path, step 1: hit KV, storage -> DE buffer."""
        assert buffer is not None
        read = await self._host.read_hit(turn.order.reads, buffer.offset)
        turn.read_ns = read.end_at_ns - read.begin_at_ns
        turn.transfers.append(read)
        await self._report(ReadDone(turn.order.turn_id))

    async def _prefill(self, turn: _Turn, buffer: Allocation | None) -> PrefillDone:
        """Ask the prefill host and wait until the whole prompt's KV is here."""
        order, host = turn.order, self._host
        answer = asyncio.get_running_loop().create_future()
        self._prefilled[order.turn_id] = answer
        try:
            target = host.region.remote if buffer is not None else None
            offset = buffer.offset if buffer is not None else 0
            prefill_host = await host.peer(order.prefill_host)
            await prefill_host.notify(encode(PrefillRequest(order, host.config.host, target, offset)))
            done: PrefillDone = await answer
            return done
        finally:
            del self._prefilled[order.turn_id]

    def _verify(self, turn: _Turn, buffer: Allocation | None) -> None:
        """Sampled blocks of the whole prompt, wherever they came from."""
        if buffer is None:
            return
        ids = np.concatenate([from_ranges(turn.order.hit_blocks), from_ranges(turn.order.new_blocks)])
        turn.verified, turn.mismatched = self._host.verify(turn.order.turn_id, buffer.offset, ids)

    async def _persist_prompt(self, turn: _Turn, buffer: Allocation | None) -> tuple[int, int]:
        """The missed full blocks of the prompt as one object, straight from the buffer."""
        blocks = sum(r.count for r in turn.order.new_blocks)
        if buffer is None or not blocks:
            return 0, 0
        hits = sum(r.count for r in turn.order.hit_blocks)
        offset = buffer.offset + hits * self._host.config.geometry.full_block_bytes
        data = self._host.blocks(offset, blocks).reshape(-1)
        return await self._write(turn, turn.order.prompt_key, memoryview(data.data))

    async def _decode(self, turn: _Turn, from_ns: int) -> tuple[int, int]:
        """Decode for as long as it takes; persist each block when its last token exists.

        The first token came from prefill, so ``output_tokens - 1`` steps remain.
        """
        order, host = turn.order, self._host
        filled, writes = order.tail_tokens, []
        async with asyncio.TaskGroup() as group:
            if order.path != "none":
                for generated in order.generated:
                    tokens = host.config.geometry.block_tokens - filled
                    filled -= host.config.geometry.block_tokens
                    await host.compute.decode(tokens - 1, from_ns)
                    writes.append(
                        group.create_task(self._write_generated(turn, generated.key, generated.blocks))
                    )
            await host.compute.decode(order.output_tokens - 1, from_ns)
        return sum(w.result()[0] for w in writes), sum(w.result()[1] for w in writes)

    async def _write_generated(
        self, turn: _Turn, key: str, blocks: tuple[BlockRange, ...]
    ) -> tuple[int, int]:
        ids = from_ranges(blocks)
        data = np.empty((len(ids), self._host.config.geometry.full_block_bytes), np.uint8)
        fill_blocks(data, self._host.config.content_seed, ids)
        return await self._write(turn, key, memoryview(data.reshape(-1).data))

    async def _write(self, turn: _Turn, key: str, data: memoryview) -> tuple[int, int]:
        """(bytes, duration) of one object persisted."""
        begin_at_ns = self._host.now_ns()
        await self._host.storage.write(key, data)
        write = self._host.transfer("storage_write", "storage", data.nbytes, 1, begin_at_ns)
        turn.transfers.append(write)
        return data.nbytes, write.end_at_ns - begin_at_ns
