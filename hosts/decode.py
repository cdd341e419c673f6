"""The decode host's part of a turn (paper 4.1), which owns the turn from order to completion.

Allocate the DE buffer; load this host's part of the hit KV into it; ask the prefill host, which loads
its part; when the whole prompt's KV is in the buffer, the first token exists; copy it to HBM, persist
the new full blocks, free the buffer; decode, and persist every block as soon as it is full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hosts.buffers import Allocation
from hosts.compute import Compute, ResidentKv, in_step
from hosts.content import fill_blocks
from hosts.decode_group import DecodeGroup
from hosts.host import Host
from hosts.protocol import (
    DecodePartRead,
    FirstToken,
    PrefillDone,
    PrefillFailed,
    PrefillRequest,
    ReadDone,
    StoredObject,
    Transfer,
    TurnDone,
    TurnOrder,
    encode,
)
from workloads.layout import from_ranges
from workloads.models import kv_bytes_per_token

Report = Callable[[ReadDone | FirstToken | TurnDone], Awaitable[None]]


class TurnError(Exception):
    """A turn that this host cannot finish: where and why."""


class PrefillError(Exception):
    """The turn's prefill host says that it cannot do its part: why."""


@dataclass(slots=True)
class _Turn:
    order: TurnOrder
    buffer: Allocation | None = None
    resident: ResidentKv | None = None
    transfers: list[Transfer] = field(default_factory=list)
    allocate_ns: int = 0
    read_ns: int = 0
    hbm_load_ns: int = 0
    second_token_ns: int = 0
    decode_ns: int = 0
    persist_ns: int = 0
    persisted_bytes: int = 0
    verified: int = 0
    mismatched: int = 0


class _PromptInBuffer:
    """See `CachedKv`: the whole prompt's KV in the DE buffer."""

    def __init__(self, host: Host, turn: _Turn) -> None:
        assert turn.buffer is not None, "a turn that moves KV has a buffer"
        self.copied_tokens = turn.order.prompt_tokens
        self._host, self._offset = host, turn.buffer.offset
        self._blocks = range(turn.buffer.nbytes // host.config.geometry.full_block_bytes)

    def cached_rows(self, layer: int) -> Sequence[NDArray[np.uint8]]:
        """See `CachedKv`."""
        return (self._host.layer_rows(layer, self._offset, self._blocks),)


class DecodeService:
    """Serves turn orders; ``report`` sends an event to the control node."""

    def __init__(self, host: Host, compute: Compute, report: Report) -> None:
        self._host, self._compute = host, compute
        self._report = report
        self._prefilled: dict[int, asyncio.Future[PrefillDone]] = {}
        model, engines = compute.prediction.model, host.config.engines
        groups = (DecodeGroup(group, compute) for group in in_step(engines, model))
        self._groups = {engine: group for group in groups for engine in group.engines}
        self._hbm_free_tokens = [
            int(host.config.engine.kv_hbm_bytes / kv_bytes_per_token(model)) for _ in range(engines)
        ]

    async def close(self) -> None:
        """End all decode steps."""
        for group in set(self._groups.values()):
            await group.close()

    def on_prefill(self, answer: PrefillDone | PrefillFailed) -> None:
        """The prefill host's answer arrived in band."""
        waiting = self._prefilled.get(answer.turn_id)
        if waiting is None or waiting.done():
            return  # the turn was given up: its repetition is failing already
        if isinstance(answer, PrefillFailed):
            waiting.set_exception(PrefillError(answer.reason))
        else:
            waiting.set_result(answer)

    async def serve(self, order: TurnOrder) -> None:
        """One turn; raises TurnError, PrefillError, TransferError, StorageError or TimeoutError, perhaps in a
        group."""
        turn = _Turn(order)
        async with asyncio.timeout(self._host.config.turn_timeout_s):
            with self._hbm_for(order):
                async with asyncio.TaskGroup() as writes:
                    await self._allocate(turn)
                    try:
                        done = await self._prefill(turn)
                        first_token_ns = time.monotonic_ns()
                        self._verify(turn)
                        await self._report(FirstToken(order.turn_id))
                        await self._load_hbm(turn)
                    except BaseException:
                        self._free(turn)
                        raise
                    writes.create_task(self._persist_prompt(turn))
                    await self._decode(turn, first_token_ns, writes)
            await self._report(_turn_done(turn, done))

    @contextmanager
    def _hbm_for(self, order: TurnOrder) -> Iterator[None]:
        """Room for the request's KV on its engine. The scheduler places only what fits: this checks it."""
        tokens, engine = order.prompt_tokens + order.output_tokens, order.decode_engine
        if tokens > self._hbm_free_tokens[engine]:
            raise TurnError(
                f"HBM of decode engine {engine} would be overrun: found {self._hbm_free_tokens[engine]} "
                f"tokens free, needed {tokens}; the scheduler's account of it is wrong"
            )
        self._hbm_free_tokens[engine] -= tokens
        try:
            yield
        finally:
            self._hbm_free_tokens[engine] += tokens

    async def _allocate(self, turn: _Turn) -> None:
        """DE buffer for the whole prompt: hit, missed and the partially filled last block."""
        order = turn.order
        if not order.moves:
            return
        full_blocks = sum(r.count for r in (*order.hit_blocks, *order.new_blocks))
        blocks = full_blocks + (1 if order.tail_tokens else 0)
        began_ns = time.monotonic_ns()
        turn.buffer = await self._host.arena.allocate(blocks * self._host.config.geometry.full_block_bytes)
        turn.allocate_ns = time.monotonic_ns() - began_ns
        self._host.clear_sample(order.turn_id, turn.buffer.offset, full_blocks)

    def _free(self, turn: _Turn) -> None:
        if turn.buffer is not None:
            self._host.arena.free(turn.buffer)

    async def _load(self, turn: _Turn) -> None:
        """This host's part of the hit: storage -> DE buffer."""
        assert turn.buffer is not None
        read = await self._host.read_hit(turn.order.decode_reads, turn.buffer.offset)
        turn.read_ns = read.end_at_ns - read.begin_at_ns
        turn.transfers.append(read)
        await self._report(ReadDone(turn.order.turn_id))

    async def _prefill(self, turn: _Turn) -> PrefillDone:
        """Read this host's part, ask the prefill host (at once if it has a part to read, too), and wait
        until the whole prompt's KV is here."""
        order, host = turn.order, self._host
        prefill_host = await host.peer(order.prefill_host, order.prefill_engine)
        answer = asyncio.get_running_loop().create_future()
        self._prefilled[order.turn_id] = answer
        both_read = bool(order.decode_reads and order.prefill_reads)
        try:
            if order.decode_reads and not both_read:
                await self._load(turn)
            request = PrefillRequest(
                order=order,
                decode_host=host.config.host,
                decode_part_read=not both_read,
                target=host.rail(order.prefill_engine).region.remote if turn.buffer is not None else None,
                target_offset=turn.buffer.offset if turn.buffer is not None else 0,
            )
            await prefill_host.notify(encode(request))
            if both_read:
                await self._load(turn)
                await prefill_host.notify(encode(DecodePartRead(order.turn_id)))
            done: PrefillDone = await answer
            return done
        finally:
            del self._prefilled[order.turn_id]

    def _verify(self, turn: _Turn) -> None:
        """Sampled blocks of the whole prompt, wherever they came from."""
        if turn.buffer is None:
            return
        ids = np.concatenate([from_ranges(turn.order.hit_blocks), from_ranges(turn.order.new_blocks)])
        turn.verified, turn.mismatched = self._host.verify(turn.order.turn_id, turn.buffer.offset, ids)

    async def _load_hbm(self, turn: _Turn) -> None:
        """The prompt's KV from the DE buffer to the engine that decodes."""
        if turn.order.moves and turn.order.output_tokens > 1:
            began_ns = time.monotonic_ns()
            turn.resident = await self._compute.load(
                turn.order.decode_engine,
                _PromptInBuffer(self._host, turn),
                turn.order.prompt_tokens + turn.order.output_tokens,
            )
            turn.hbm_load_ns = time.monotonic_ns() - began_ns

    async def _persist_prompt(self, turn: _Turn) -> None:
        """The missed full blocks of the prompt as one object; then the buffer is free."""
        try:
            if turn.buffer is None or not turn.order.persisted:
                return
            hits = sum(r.count for r in turn.order.hit_blocks)
            offset = turn.buffer.offset + hits * self._host.config.geometry.full_block_bytes
            new_blocks = self._host.blocks(offset, sum(r.count for r in turn.order.new_blocks))
            ranges = [new_blocks[r.first : r.first + r.count] for r in turn.order.persisted]
            data = ranges[0] if len(ranges) == 1 else np.concatenate(ranges)
            await self._write(turn, turn.order.prompt_key, memoryview(data.reshape(-1).data))
        finally:
            self._free(turn)

    async def _decode(self, turn: _Turn, first_token_ns: int, writes: asyncio.TaskGroup) -> None:
        """Every token after the first, which came from prefill; each block is persisted once it is full."""
        order, block_tokens = turn.order, self._host.config.geometry.block_tokens
        group, engine = self._groups[order.decode_engine], order.decode_engine
        stream = group.start(engine, order.prompt_tokens, max(0, order.output_tokens - 1), turn.resident)
        try:
            if stream.steps:
                await stream.until(1)
                turn.second_token_ns = time.monotonic_ns() - first_token_ns
            for index, generated in enumerate(order.generated):
                await stream.until((index + 1) * block_tokens - order.tail_tokens - 1)
                if order.moves and generated.key:
                    writes.create_task(self._write_generated(turn, generated))
            await stream.until(stream.steps)
            if stream.steps:
                turn.decode_ns = time.monotonic_ns() - first_token_ns
        finally:
            group.stop(engine, stream)
            if turn.resident is not None:
                turn.resident.free()

    async def _write_generated(self, turn: _Turn, generated: StoredObject) -> None:
        ids = from_ranges(generated.blocks)
        data = np.empty((len(ids), self._host.config.geometry.full_block_bytes), np.uint8)
        fill_blocks(data, self._host.config.content_seed, ids)
        await self._write(turn, generated.key, memoryview(data.reshape(-1).data))

    async def _write(self, turn: _Turn, key: str, data: memoryview) -> None:
        """Persist one object."""
        begin_at_ns = self._host.now_ns()
        await self._host.storage.write(key, data)
        write = self._host.transfer("storage_write", "storage", data.nbytes, 1, begin_at_ns)
        turn.transfers.append(write)
        turn.persisted_bytes += data.nbytes
        turn.persist_ns += write.end_at_ns - begin_at_ns


def _turn_done(turn: _Turn, done: PrefillDone) -> TurnDone:
    """Both hosts' parts together."""
    return TurnDone(
        turn_id=turn.order.turn_id,
        allocate_ns=turn.allocate_ns + done.allocate_ns,
        read_ns=max(turn.read_ns, done.read_ns),
        hbm_wait_ns=done.hbm_wait_ns,
        engine_wait_ns=done.engine_wait_ns,
        compute_ns=done.compute_ns,
        transfer_ns=done.transfer_ns,
        chunks=done.chunks,
        hbm_load_ns=turn.hbm_load_ns,
        second_token_ns=turn.second_token_ns,
        decode_ns=turn.decode_ns,
        persist_ns=turn.persist_ns,
        persisted_bytes=turn.persisted_bytes,
        verified_blocks=turn.verified + done.verified_blocks,
        mismatched_blocks=turn.mismatched + done.mismatched_blocks,
        transfers=(*turn.transfers, *done.transfers),
    )
