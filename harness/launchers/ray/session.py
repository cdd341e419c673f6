"""A shell on a host, as the driver sees it: a stream of results of one call of the host's actor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

from harness.launchers.ray.words import LostError, why_lost
from harness.launchers.remote import BEAT, command_status

_END_TIMEOUT_S = 5.0
Sink = Callable[[int, bytes], None]


class Session:
    """A line that runs by an actor's shell. ``ended`` is its command's status, and raises LostError.

    ``sink`` gets the output as it comes, with `actor.STDOUT` or `actor.STDERR`.
    """

    def __init__(self, actor: Any, line: str, stdin: bytes, sink: Sink) -> None:
        self._actor = actor
        self._shell_id: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        results = actor.run.options(num_returns="streaming").remote(line, stdin)
        self.ended = asyncio.create_task(self._read(results, sink))

    async def started(self) -> None:
        """Once it runs; raises LostError if it never will."""
        await asyncio.wait([self._shell_id, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if not self._shell_id.done():
            self.ended.result()

    async def feed(self, piece: bytes) -> None:
        """Write to its stdin; nothing ends that. Raises LostError."""
        try:
            await self._actor.feed.remote(await self._shell_id, piece)
        except RayError as error:
            raise LostError(why_lost(error)) from error

    def beat(self) -> None:
        """Let it go on for another lease; of one that is lost, others tell."""
        if self._shell_id.done():
            self._actor.feed.remote(self._shell_id.result(), BEAT)

    async def end(self) -> None:
        """End it, and wait until it has; no longer than a few seconds, and not for a host that is lost."""
        with suppress(TimeoutError, LostError, RayError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self.started()
                await self._actor.end.remote(await self._shell_id)
                await asyncio.shield(self.ended)
        self.ended.cancel()

    async def _read(self, results: Any, sink: Sink) -> int:
        try:
            self._shell_id.set_result(await (await anext(results)))
            async for result in results:
                match await result:
                    case (int(channel), bytes(piece)):
                        sink(channel, piece)
                    case int(status):
                        return command_status(status)
        except RayError as error:
            raise LostError(why_lost(error)) from error
        raise LostError("its actor said nothing of how the command ended")
