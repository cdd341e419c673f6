"""What control process and driver say to each other, over a pair of sockets (`hosts.line.Line`).

Requests carry an ``id`` of the caller's, and their answers the same.
"""

from __future__ import annotations

import msgspec

MAX_BYTES = 1 << 31
"""Of a message: all that a command prints is one."""


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One of those below."""


class Open(Message, frozen=True):
    """The first one, to the driver: connect to a cluster. ``nodes``: what the inventory calls them, by host."""

    address: str
    start_timeout_s: float
    nodes: dict[str, str]


class Opened(Message, frozen=True):
    """The answer. ``problem``: why there is no connection, in words, or ''."""

    problem: str


class Reach(Message, frozen=True):
    """Put an actor on a host; answered by `Reached` or `Lost`. It takes a second; other requests do it, too."""

    id: int
    host: str


class Run(Message, frozen=True):
    """Run a shell line; answered by `Done` or `Lost`. ``source``: a file to feed it after ``stdin``, or ''."""

    id: int
    host: str
    line: str
    stdin: bytes
    source: str = ""


class Start(Message, frozen=True):
    """Start a shell line; answered by `Lost`, or by `Reached` and at last by `Ended`."""

    id: int
    host: str
    line: str
    stdin: bytes
    log: str


class Cancel(Message, frozen=True):
    """Nobody waits for an answer any more: end what runs for it."""

    id: int


class Reached(Message, frozen=True):
    """There is an actor, or a command has been started."""

    id: int


class Done(Message, frozen=True):
    """A line has ended, with a status like that of `Completed`."""

    id: int
    status: int
    stdout: bytes
    stderr: bytes


class Ended(Message, frozen=True):
    """A started line has ended, or its host was lost; in words."""

    id: int
    how: str


class Lost(Message, frozen=True):
    """The host that was asked for cannot be reached, or not any more; in words."""

    id: int
    reason: str


Request = Reach | Run | Start
Asked = Request | Cancel
Answer = Reached | Done | Ended | Lost
