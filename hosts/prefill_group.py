"""Engines of a prefill host that run in step: a queue each, one forward pass after the other (paper 6.2).

A pass takes from every engine's queue what fits its compute quota. Layer by layer it waits for the
layer's KV, computes for as long as the slowest engine needs, and hands the layer over. What becomes
ready meanwhile waits for the next pass.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hosts.batching import pack
from hosts.compute import Chunk, Compute, Forward, Piece
from hosts.host import Host
from hosts.prompt_kv import PromptKv
from hosts.protocol import EngineBatch, ForwardPass
from workloads.models import kv_bytes_per_token

RESIDENT_LAYERS = 2
"""With layerwise prefill: the one that computes and the next one."""
Batch = list[tuple["_Waiting", int]]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A prompt in an engine's queue; ``computed`` is done after its last chunk."""

    kv: PromptKv
    computed: asyncio.Future[None]
    queued_at_ns: int = field(default_factory=time.monotonic_ns)
    wait_ns: int = 0
    compute_ns: int = 0

    @property
    def cached_tokens(self) -> int:
        return self.kv.cached_tokens

    @property
    def remaining_tokens(self) -> int:
        return self.kv.remaining_tokens


class PrefillGroup:
    """``engines`` in step; `run` computes a prompt on one of them, FIFO. ``passes`` is their record."""

    def __init__(self, host: Host, engines: range, compute: Compute, passes: list[ForwardPass]) -> None:
        self.engines = engines
        self._host, self._compute, self._passes = host, compute, passes
        self._queues: dict[int, deque[_Waiting]] = {engine: deque() for engine in engines}
        self._work, self._passing = asyncio.Event(), asyncio.Lock()
        self._task = asyncio.create_task(self._run(), name=f"engines {engines.start}-{engines.stop - 1}")

    async def close(self) -> None:
        """End the passes."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def run(self, engine: int, kv: PromptKv) -> tuple[int, int]:
        """Compute a prompt whose KV can be loaded: (nanoseconds it waited, nanoseconds of its passes).

        When this returns or raises, also by cancellation, no pass uses ``kv`` any more.
        """
        waiting = _Waiting(kv, asyncio.get_running_loop().create_future())
        self._queues[engine].append(waiting)
        self._work.set()
        try:
            await waiting.computed
        except asyncio.CancelledError:
            if waiting in self._queues[engine]:
                self._queues[engine].remove(waiting)
            async with self._passing:
                raise
        return waiting.wait_ns, waiting.compute_ns

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            try:
                async with self._passing:
                    batches = [self._next_batch(self._queues[engine]) for engine in self.engines]
                    if any(batches):
                        await self._forward(batches)
                    else:
                        self._work.clear()
            except Exception as error:  # every turn here fails with it, and says so to its decode host
                for waiting in (w for queue in self._queues.values() for w in queue):
                    if not waiting.computed.done():
                        waiting.computed.set_exception(error)
                for queue in self._queues.values():
                    queue.clear()

    def _next_batch(self, queue: deque[_Waiting]) -> Batch:
        prediction = self._compute.prediction
        config, model = prediction.config, prediction.model
        resident = RESIDENT_LAYERS / model.layers * kv_bytes_per_token(model)
        return pack(
            queue,
            quota_s=config.compute_quota_s,
            attention_s=prediction.attention_s,
            hbm_tokens=config.kv_hbm_bytes / resident if self._host.layerwise else float("inf"),
            block_tokens=self._host.config.geometry.block_tokens,
        )

    async def _forward(self, batches: Sequence[Batch]) -> None:
        """One pass; afterwards the prompts without a rest leave their queues."""
        begin_at_ns = self._host.now_ns()
        chunks = [[self._begun(waiting, tokens) for waiting, tokens in batch] for batch in batches]
        waiting = [waiting for batch in batches for waiting, _ in batch]
        async with self._compute.forward(self.engines, chunks) as forward:
            await self._layers(forward, [w.kv for w in waiting])
        self._record(begin_at_ns, [[chunk.piece for chunk in batch] for batch in chunks])
        for w in waiting:
            w.compute_ns += forward.compute_ns
            if not w.remaining_tokens:
                self._leave(w)
                if not w.computed.done():
                    w.computed.set_result(None)

    def _begun(self, waiting: _Waiting, tokens: int) -> Chunk:
        """The next tokens of a prompt as part of the pass that begins."""
        kv = waiting.kv
        if not kv.chunks:
            waiting.wait_ns = time.monotonic_ns() - waiting.queued_at_ns
        piece = Piece(kv.cached_tokens, tokens)
        kv.begin_chunk(tokens)
        return Chunk(piece, kv, kv.resident)

    async def _layers(self, forward: Forward, prompts: Sequence[PromptKv]) -> None:
        """Load, compute, hand over, layer by layer; while one computes, the next one is begun."""
        layers = self._host.config.geometry.layers
        for layer in range(layers):
            arrived_at_ns = [0]
            if self._host.layerwise:
                arrived_at_ns += await asyncio.gather(*(kv.layer_here(layer) for kv in prompts))
            forward.begin(layer, max(arrived_at_ns))
            if layer:
                await self._computed(forward, layer - 1, prompts)
        await self._computed(forward, layers - 1, prompts)

    async def _computed(self, forward: Forward, layer: int, prompts: Sequence[PromptKv]) -> None:
        await forward.computed(layer)
        if self._host.layerwise:
            for kv in prompts:
                await kv.hand_over(layer)

    def _leave(self, waiting: _Waiting) -> None:
        for queue in self._queues.values():
            if waiting in queue:
                queue.remove(waiting)

    def _record(self, begin_at_ns: int, batches: Sequence[Sequence[Piece]]) -> None:
        prediction = self._compute.prediction
        self._passes.append(
            ForwardPass(
                begin_at_ns,
                self._host.now_ns(),
                tuple(
                    EngineBatch(
                        engine,
                        prediction.dilated_ns(sum(prediction.attention_s(*piece) for piece in batch)),
                        len(batch),
                        sum(piece.new_tokens for piece in batch),
                        sum(piece.cached_tokens for piece in batch),
                    )
                    for engine, batch in zip(self.engines, batches, strict=True)
                ),
            )
        )
