"""The prefill host's part of a turn (paper 4.1): allocate, load, compute in a forward batch, hand over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

from hosts.budget import FifoBudget
from hosts.compute import Compute, in_step
from hosts.host import Host
from hosts.prefill_group import PrefillGroup
from hosts.prompt_kv import PromptKv
from hosts.protocol import DecodePartRead, ForwardPass, PrefillDone, PrefillRequest, encode
from workloads.models import kv_bytes_per_token


class PrefillService:
    """Serves prefill requests. ``on_read_done`` tells the control node; ``passes`` are this repetition's."""

    def __init__(self, host: Host, compute: Compute, on_read_done: Callable[[int], Awaitable[None]]) -> None:
        self._host, self._compute = host, compute
        self._on_read_done = on_read_done
        model = compute.prediction.model
        self.passes: list[ForwardPass] = []
        groups = (
            PrefillGroup(host, engines, self._compute, self.passes)
            for engines in in_step(host.config.engines, model)
        )
        self._groups = {engine: group for group in groups for engine in group.engines}
        self._hbm = [FifoBudget(host.config.engine.kv_hbm_bytes) for _ in range(host.config.engines)]
        self._kv_bytes_per_token = kv_bytes_per_token(model)
        self._decode_part: dict[int, asyncio.Event] = {}

    async def close(self) -> None:
        """End all forward passes."""
        for group in set(self._groups.values()):
            await group.close()

    def on_decode_part_read(self, message: DecodePartRead) -> None:
        """The decode host's part of a split read is in its buffer; its request may be still to come."""
        self._decode_part.setdefault(message.turn_id, asyncio.Event()).set()

    async def serve(self, request: PrefillRequest) -> None:
        """One prompt, from the request to the answer that its KV is in the decode host's buffer."""
        order = request.order
        async with AsyncExitStack() as held:
            decode_part = held.enter_context(self._decode_part_of(request))
            decode_host = await self._host.peer(request.decode_host, order.prefill_engine)
            kv = PromptKv(self._host, request, decode_host)
            held.push_async_callback(kv.close)
            await kv.allocate()
            if order.prefill_reads:
                await kv.read_hit()
                await self._on_read_done(order.turn_id)
            await decode_part.wait()
            hbm_wait_ns = 0
            if order.moves and not self._host.layerwise:
                hbm_wait_ns = await self._fill_hbm(kv, held)
            began_ns = time.monotonic_ns()
            wait_ns, compute_ns = await self._groups[order.prefill_engine].run(order.prefill_engine, kv)
            if not self._host.layerwise:
                for layer in range(kv.layers):
                    await kv.hand_over(layer)
            await kv.placed()
            done = PrefillDone(
                turn_id=order.turn_id,
                allocate_ns=kv.allocate_ns,
                read_ns=kv.read_ns,
                hbm_wait_ns=hbm_wait_ns,
                engine_wait_ns=wait_ns,
                compute_ns=compute_ns,
                transfer_ns=max(0, time.monotonic_ns() - began_ns - wait_ns - compute_ns),
                chunks=kv.chunks,
                verified_blocks=kv.verified,
                mismatched_blocks=kv.mismatched,
                transfers=kv.transfers,
            )
        await decode_host.notify(encode(done))

    async def _fill_hbm(self, kv: PromptKv, held: AsyncExitStack) -> int:
        """Without layerwise prefill: room in HBM for the prompt's KV in all layers until it is handed
        over, and the hit copied there; nanoseconds until then."""
        began_ns, engine = time.monotonic_ns(), kv.order.prefill_engine
        nbytes = kv.order.prompt_tokens * self._kv_bytes_per_token
        await self._hbm[engine].take(nbytes)
        held.callback(self._hbm[engine].give_back, nbytes)
        for layer in range(kv.layers):
            await kv.layer_here(layer)
        kv.resident = await self._compute.load(engine, kv, kv.order.prompt_tokens)
        held.callback(kv.resident.free)
        return time.monotonic_ns() - began_ns

    @contextmanager
    def _decode_part_of(self, request: PrefillRequest) -> Iterator[asyncio.Event]:
        """Set when the decode host's part of the hit is in its buffer."""
        event = self._decode_part.setdefault(request.order.turn_id, asyncio.Event())
        if request.decode_part_read:
            event.set()
        try:
            yield event
        finally:
            del self._decode_part[request.order.turn_id]
