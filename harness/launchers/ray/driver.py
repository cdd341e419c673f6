"""The Ray driver, a process of its own: answers what the control process asks, and ends with it.

`python -m harness.launchers.ray.driver FD`: ``FD`` is a socket to the control process. Its end ends everything
that was started, then the driver. Where the driver ends without a word Ray ends the actors, and with them the
rest.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

import ray

from harness.launchers.ray.connect import connected
from harness.launchers.ray.messages import (
    MAX_BYTES,
    Answer,
    Asked,
    Cancel,
    Ended,
    Lost,
    Open,
    Opened,
    Reach,
    Reached,
    Request,
    Run,
    Start,
)
from harness.launchers.ray.placement import Placement
from harness.launchers.ray.shells import Shells
from harness.launchers.ray.words import LostError
from hosts.line import Line


def main() -> None:
    """Serve the control process at the other end of a socket."""
    asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1]))))


async def _serve(control: socket.socket) -> None:
    line = Line(*await asyncio.open_unix_connection(sock=control), MAX_BYTES)
    opening = await line.receive(Open)
    problem = connected(opening.address)
    await line.send(Opened(problem))
    if problem:
        return
    calls = Calls(line, Shells(Placement(opening.nodes, opening.start_timeout_s)))
    try:
        with suppress(EOFError, OSError):  # the control process is done, or gone
            while True:
                calls.take(await line.receive(Asked))  # type: ignore[arg-type] # a union is no class
    finally:
        await calls.close()
        ray.shutdown()


class Calls:
    """What is being done for the control process, by the ids of its requests."""

    def __init__(self, line: Line, shells: Shells) -> None:
        self._line = line
        self._shells = shells
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, asked: Request | Cancel) -> None:
        """Begin with a request, or give one up."""
        if isinstance(asked, Cancel):
            if (task := self._tasks.get(asked.id)) is not None:
                task.cancel()
        else:
            self._tasks[asked.id] = task = asyncio.create_task(self._answer(asked))
            task.add_done_callback(lambda _: self._tasks.pop(asked.id))

    async def close(self) -> None:
        """End everything; what was started is told of, as far as somebody listens."""
        await self._shells.close()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _answer(self, request: Request) -> None:
        try:
            self._line.post(await self._answered(request))
        except LostError as error:
            self._line.post(Lost(request.id, str(error)))

    async def _answered(self, request: Request) -> Answer:
        match request:
            case Reach():
                await self._shells.reach(request.host)
                return Reached(request.id)
            case Run():
                return await self._shells.run(request)
            case Start():
                how = await self._shells.start(request, lambda: self._line.post(Reached(request.id)))
                return Ended(request.id, how)


if __name__ == "__main__":
    main()
