"""What control process and driver say to each other, over a pair of sockets (`hosts.line.Line`): first `Open`
and `Opened`, then any number of `Call` and `Reply`."""

from __future__ import annotations

import msgspec

MAX_BYTES = 1 << 31
"""Of a message: all that a command prints is one."""


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One of those below."""


class Open(Message, frozen=True):
    """To the driver: connect to a cluster. ``nodes``: what the inventory calls them, by host."""

    address: str
    start_timeout_s: float
    nodes: dict[str, str]


class Opened(Message, frozen=True):
    """From the driver. ``problem``: why there is no connection, in words, or ''."""

    problem: str


class Reach(Message, frozen=True):
    """Have an actor on a host; answered by `Reached`. The other requests see to that, too."""

    host: str


class Run(Message, frozen=True):
    """Run a shell line; answered by `Done`. ``source``: a file that it reads after ``stdin``, or ''."""

    host: str
    line: str
    stdin: bytes = b""
    source: str = ""


class Start(Message, frozen=True):
    """Start a shell line; answered by `Reached` when it runs, and at last by `Ended`."""

    host: str
    line: str
    stdin: bytes
    log: str


class Cancel(Message, frozen=True):
    """Nobody waits for the answer to this call any more: end what runs for it."""


class Reached(Message, frozen=True):
    """There is an actor, or a line has been started."""


class Done(Message, frozen=True):
    """A line has ended; ``status`` as in `Completed`."""

    status: int
    stdout: bytes
    stderr: bytes


class Ended(Message, frozen=True):
    """A started line has ended, or its host was lost; in words."""

    how: str


class Lost(Message, frozen=True):
    """The host that was asked for cannot be reached, or not any more; in words."""

    reason: str


Request = Reach | Run | Start
Answer = Reached | Done | Ended | Lost


class Call(Message, frozen=True):
    """To the driver. ``id`` is the caller's."""

    id: int
    request: Request | Cancel


class Reply(Message, frozen=True):
    """From the driver, to the call of that ``id``."""

    id: int
    answer: Answer
