"""The driver, as the control process sees it: a child process, and calls to it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.cluster.processes import wait_exit
from harness.host_error import HostError
from harness.launchers.ray.messages import (
    MAX_BYTES,
    Answer,
    Call,
    Cancel,
    Lost,
    Open,
    Opened,
    Reply,
    Request,
)
from hosts.line import Line

_END_TIMEOUT_S = 15.0
"""Ending what runs on hosts may take it a few seconds, and Ray's own end some more."""
_WORDS_CHARACTERS = 200
Answers = asyncio.Queue[Answer]


async def open_driver(opening: Open) -> DriverProcess:
    """One that is connected to its cluster. Raises HostError if it cannot connect, or not in time."""
    ours, its = socket.socketpair()
    with its:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        driver = DriverProcess(reader, writer, its)
    try:
        await driver.connect(opening)
    except BaseException:
        await driver.close()
        raise
    return driver


class DriverProcess:
    """It runs from the beginning to ``close``; once it is connected it can be called."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, its: socket.socket
    ) -> None:
        self._writer = writer
        self._line = Line(reader, writer, MAX_BYTES)
        self._ids = itertools.count()
        self._calls: dict[int, Answers] = {}
        self._lost = ""
        self._replies: asyncio.Task[None] | None = None
        self._said = os.memfd_create("driver")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.launchers.ray.driver", str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            pass_fds=[its.fileno()],
            start_new_session=True,  # a Ctrl-C at the terminal is for us, who end it in order
        )

    async def connect(self, opening: Open) -> None:
        """Let it connect to the cluster, see `open_driver`."""
        self._line.post(opening)
        try:
            async with asyncio.timeout(opening.start_timeout_s):
                problem = (await self._line.receive(Opened)).problem
        except TimeoutError:
            problem = (
                f"no connection to the Ray cluster at '{opening.address}' within "
                f"{opening.start_timeout_s:g} s; fix: look at `ray status` there, or set a longer "
                "start_timeout_s"
            )
        except (EOFError, OSError):
            problem = self._last_words()
        if problem:
            self._process.kill()
            raise HostError("control", problem)
        self._replies = asyncio.create_task(self._take_replies())

    @contextmanager
    def call(self, request: Request) -> Iterator[Answers]:
        """Ask for something; after the block nobody waits for answers any more, and what runs is ended."""
        call_id, answers = next(self._ids), Answers()
        self._calls[call_id] = answers
        if self._lost:
            answers.put_nowait(Lost(self._lost))
        else:
            self._line.post(Call(call_id, request))
        try:
            yield answers
        finally:
            del self._calls[call_id]
            if not self._lost:
                self._line.post(Call(call_id, Cancel()))

    async def close(self) -> None:
        """Let it end everything, then itself; no longer than some seconds. Calls get their last answers."""
        if self._process.returncode is not None:
            return
        self._lost = self._lost or "its launcher was closed"
        try:
            self._writer.write_eof()
            async with asyncio.timeout(_END_TIMEOUT_S):
                await wait_exit(self._process)
        except TimeoutError:
            pass
        finally:
            self._process.kill()
            self._process.wait()
        if self._replies is not None:
            await self._replies
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        os.close(self._said)

    async def _take_replies(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                reply = await self._line.receive(Reply)
                if (answers := self._calls.get(reply.id)) is not None:
                    answers.put_nowait(reply.answer)
        self._lost = self._lost or self._last_words()
        for answers in self._calls.values():
            answers.put_nowait(Lost(self._lost))

    def _last_words(self) -> str:
        said = os.pread(self._said, os.fstat(self._said).st_size, 0).decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "")[:_WORDS_CHARACTERS]
        return f"the Ray driver has ended{last and f': {last}'}"
