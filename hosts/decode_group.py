"""Engines of a decode host that run in step: continuous batching, one token for every request a step.

A request joins at the next step and leaves with its last token. A step takes as long as the slowest
engine's batch needs.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Sequence

from hosts.compute import Compute, ResidentKv


class DecodeStream:
    """One request on an engine: ``steps`` tokens after the first one, over ``context_tokens`` of KV, which
    is ``resident`` in its HBM where any was moved."""

    def __init__(self, context_tokens: int, steps: int, resident: ResidentKv | None = None) -> None:
        self.context_tokens, self.steps, self.done = context_tokens, steps, 0
        self.resident = resident
        self.failed: Exception | None = None
        self._reached: list[tuple[int, int, asyncio.Future[None]]] = []

    async def until(self, step: int) -> None:
        """Until ``step`` of its steps are done; raises what ended the steps before that."""
        if self.failed is not None:
            raise self.failed
        if self.done < step:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            insort(self._reached, (step, id(reached), reached))
            await reached

    def advance(self) -> None:
        """One more token exists."""
        self.done += 1
        self.context_tokens += 1
        while self._reached and self._reached[0][0] <= self.done:
            _, _, reached = self._reached.pop(0)
            if not reached.done():
                reached.set_result(None)

    def fail(self, error: Exception) -> None:
        """There will be no more tokens."""
        self.failed = error
        for _, _, reached in self._reached:
            if not reached.done():
                reached.set_exception(error)


class DecodeGroup:
    """``engines`` in step; `start` puts a request on one of them."""

    def __init__(self, engines: range, compute: Compute) -> None:
        self.engines, self._compute = engines, compute
        self._streams: dict[int, list[DecodeStream]] = {engine: [] for engine in engines}
        self._work = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"decode {engines.start}-{engines.stop - 1}")

    async def close(self) -> None:
        """End the steps."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def start(
        self, engine: int, context_tokens: int, steps: int, resident: ResidentKv | None = None
    ) -> DecodeStream:
        """Decode ``steps`` tokens from the next step on."""
        stream = DecodeStream(context_tokens, steps, resident)
        if steps:
            self._streams[engine].append(stream)
            self._work.set()
        return stream

    def stop(self, engine: int, stream: DecodeStream) -> None:
        """Give a request up that is not done."""
        if stream in self._streams[engine]:
            self._streams[engine].remove(stream)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._steps()
            except Exception as error:
                for stream in (s for streams in self._streams.values() for s in streams):
                    stream.fail(error)

    async def _steps(self) -> None:
        """One step after the other until no engine has work."""
        steps = self._compute.decode(self.engines)
        while batches := self._batches():
            await steps.step(batches)
            self._advance(batches)

    def _batches(self) -> list[list[DecodeStream]]:
        """What every engine decodes in the next step; nothing if no engine has work."""
        batches = [list(self._streams[engine]) for engine in self.engines]
        return batches if any(batches) else []

    def _advance(self, batches: Sequence[Sequence[DecodeStream]]) -> None:
        for engine, batch in zip(self.engines, batches, strict=True):
            for stream in batch:
                stream.advance()
            self._streams[engine] = [s for s in self._streams[engine] if s.done < s.steps]
