"""The Ray driver, a process of its own: does what the control process asks for, and ends with it.

`python -m harness.launchers.ray.driver FD`: ``FD`` is a socket to the control process. The end of that ends
all that was started, then the driver. When the driver is killed Ray ends its actors, and they the rest.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

import ray

from harness.launchers.ray.connect import connect
from harness.launchers.ray.messages import (
    MAX_BYTES,
    Answer,
    Call,
    Cancel,
    Ended,
    Lost,
    Open,
    Opened,
    Reach,
    Reached,
    Reply,
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
    problem = connect(opening.address)
    await line.send(Opened(problem))
    if problem:
        return
    calls = Calls(line, Shells(Placement(opening.nodes, opening.start_timeout_s)))
    try:
        with suppress(EOFError, OSError):  # the control process is done, or gone
            while True:
                calls.take(await line.receive(Call))
    finally:
        await calls.close()
        ray.shutdown()


class Calls:
    """What is being done for the control process."""

    def __init__(self, line: Line, shells: Shells) -> None:
        self._line = line
        self._shells = shells
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, call: Call) -> None:
        """Begin with a request, or give one up."""
        if not isinstance(call.request, Cancel):
            self._tasks[call.id] = task = asyncio.create_task(self._reply(call.id, call.request))
            task.add_done_callback(lambda _: self._tasks.pop(call.id))
        elif call.id in self._tasks:
            self._tasks[call.id].cancel()

    async def close(self) -> None:
        """End everything; how what was started has ended is told as far as somebody listens."""
        await self._shells.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reply(self, call_id: int, request: Request) -> None:
        def started() -> None:
            self._line.post(Reply(call_id, Reached()))

        answer: Answer
        try:
            match request:
                case Reach():
                    await self._shells.reach(request.host)
                    answer = Reached()
                case Run():
                    answer = await self._shells.run(request)
                case Start():
                    answer = Ended(await self._shells.start(request, started))
        except LostError as error:
            answer = Lost(str(error))
        except Exception as error:  # whoever waits is to hear of it, whatever it is
            answer = Lost(f"the Ray driver has failed: {error!r}")
        self._line.post(Reply(call_id, answer))


if __name__ == "__main__":
    main()
