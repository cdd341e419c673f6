"""What the driver does on hosts: lines that run by their actors' shells, from request to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from harness.launchers.ray.actor import STDERR, STDOUT
from harness.launchers.ray.messages import Done, Run, Start
from harness.launchers.ray.placement import Placement
from harness.launchers.ray.session import Session, Sink
from harness.launchers.ray.words import LostError
from harness.launchers.remote import BEAT_S
from harness.launchers.words import how_it_ended

_PIECE_BYTES = 1 << 22


class Shells:
    """Those of one driver. All raise LostError for a host that cannot be reached, or not any more."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._running: set[Session] = set()
        self._beats = asyncio.create_task(self._beat())

    async def reach(self, host: str) -> None:
        """Have an actor on a host."""
        await self._placement.on(host)

    async def run(self, request: Run) -> Done:
        """Run a line to its end; cancelling ends it."""
        outputs = {STDOUT: bytearray(), STDERR: bytearray()}
        session = await self._session(request, lambda channel, piece: outputs[channel].extend(piece))
        feeding = asyncio.create_task(_feed(session, Path(request.source))) if request.source else None
        try:
            status = await asyncio.shield(session.ended)
        finally:
            if feeding is not None:
                feeding.cancel()
            await session.end()
        return Done(status, bytes(outputs[STDOUT]), bytes(outputs[STDERR]))

    async def start(self, request: Start, started: Callable[[], None]) -> str:
        """Start a line, say so, and let it run as long as this process beats; how it ended."""
        with _appending(request.log) as log:

            def write(_: int, piece: bytes) -> None:
                with suppress(OSError):  # a full disk here is nothing to hold it up for
                    log.write(piece)

            session = await self._session(request, write)
            self._running.add(session)
            try:
                await session.started()
                started()
                await asyncio.wait([session.ended])
            finally:
                self._running.discard(session)
                await session.end()
        if session.ended.cancelled():
            return "lost: it did not end when told to"
        try:
            return how_it_ended(session.ended.result())
        except LostError as error:
            return f"lost: {error}"

    async def close(self) -> None:
        """End what was started."""
        self._beats.cancel()
        await asyncio.gather(*(session.end() for session in self._running))

    async def _session(self, request: Run | Start, sink: Sink) -> Session:
        actor = await self._placement.on(request.host)
        session = Session(actor, request.line, request.stdin, sink)

        def look(ended: asyncio.Task[int]) -> None:
            if not ended.cancelled() and ended.exception() is not None:
                self._placement.forget(request.host, actor)

        session.ended.add_done_callback(look)
        return session

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for session in self._running:
                session.beat()


def _appending(log: str) -> BinaryIO:
    return open(log, "ab", buffering=0)


async def _feed(session: Session, source: Path) -> None:
    """A file to its end, as far as it can be read, or until the other side is gone.

    Piece by piece: calls of an actor that run side by side are in no order.
    """
    with suppress(LostError):
        with suppress(OSError), source.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                await session.feed(piece)
        await session.feed(b"")
