"""`Launcher` over sshd: sessions on the hosts' connections.

What is guaranteed: a command ends with its session, its connection, this process or its timeout, at once
where the host can notice (the connection is closed or reset), else after the lease of `remote`. A process
that has left its process group is on its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import asyncssh

from harness.host_error import HostError
from harness.inventory import InventoryHost
from harness.launchers.base import Completed
from harness.launchers.remote import BEAT, BEAT_S, command_status, put_line, run_line, start_line
from harness.launchers.ssh.connections import Connection, Connections
from harness.launchers.words import cannot_put, how_it_ended, not_put, shown, took_too_long, unknown_host

_END_TIMEOUT_S = 5.0
_SESSION_TIMEOUT_S = 5.0
_SESSION_PAUSE_S = 0.1
_PIECE_BYTES = 1 << 18

_Process = asyncssh.SSHClientProcess[bytes]


class SshHosts:
    """`Launcher` on the hosts of an inventory."""

    kind = "ssh"

    def __init__(self, hosts: Sequence[InventoryHost], connections: Connections) -> None:
        self.hosts: Sequence[str] = tuple(host.name for host in hosts)
        self._hosts = {host.name: host for host in hosts}
        self._connections = connections
        self._running: set[SshProcess] = set()
        self._beats: asyncio.Task[None] | None = None

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Completed:
        """See `Launcher.run`; connecting is not part of the time."""
        connection = await self._connection(host)
        async with connection.sessions:
            process = await _session(host, connection, run_line(argv, len(stdin), timeout_s))
            ended = False
            try:
                async with asyncio.timeout(timeout_s):
                    _write(process, stdin)
                    done = await process.wait()
                ended = True
            except TimeoutError:
                raise took_too_long(host, argv, timeout_s) from None
            finally:
                if not ended:
                    await _end(process)
        if done.returncode is None:
            raise HostError(host, f"lost while {shown(argv)} ran: {connection.lost}")
        return Completed(command_status(done.returncode), _bytes(done.stdout), _bytes(done.stderr))

    async def put(self, host: str, source: Path, destination: str, *, timeout_s: float = 120.0) -> None:
        """See `Launcher.put`."""
        connection = await self._connection(host)
        async with connection.sessions:
            line = put_line(os.stat(source).st_size, destination, timeout_s)
            process = await _session(host, connection, line)
            try:
                async with asyncio.timeout(timeout_s):
                    await _feed(process, source)
                    done = await process.wait()
            except TimeoutError:
                raise cannot_put(host, destination, f"not done within {timeout_s:g} s") from None
            finally:
                process.channel.abort()
        if done.returncode is None:
            raise cannot_put(host, destination, f"host lost: {connection.lost}")
        if done.returncode != 0:
            raise not_put(host, destination, _bytes(done.stderr))

    async def start(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: bytes,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> SshProcess:
        """See `Launcher.start`."""
        connection = await self._connection(host)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = await _session(host, connection, start_line(argv, len(stdin), environment or {}))
        _write(process, stdin)
        started = SshProcess(process, connection, log.open("ab", buffering=0))
        self._running.add(started)
        started.end.add_done_callback(lambda _: self._running.discard(started))
        if self._beats is None:
            self._beats = asyncio.create_task(self._beat())
        return started

    async def close(self) -> None:
        """See `Launcher.close`."""
        await asyncio.gather(*(started.kill() for started in self._running))
        if self._beats is not None:
            self._beats.cancel()
        await self._connections.close()

    async def _connection(self, host: str) -> Connection:
        if host not in self._hosts:
            raise unknown_host(host, self.hosts)
        return await self._connections.to(self._hosts[host])

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for started in self._running:
                started.beat()


class SshProcess:
    """`Started` by `SshHosts`. ``end`` is done when the process has ended, whoever waits for it."""

    def __init__(self, process: _Process, connection: Connection, log: BinaryIO) -> None:
        self._process = process
        self._connection = connection
        self.end = asyncio.create_task(self._until_ended(log))

    async def wait(self) -> str:
        """See `Started.wait`."""
        return await asyncio.shield(self.end)

    def beat(self) -> None:
        """Let it go on for another lease."""
        _write(self._process, BEAT)

    async def kill(self) -> None:
        """End it, and wait until it has; no longer than a few seconds."""
        await _end(self._process)
        await self.wait()

    async def _until_ended(self, log: BinaryIO) -> str:
        with log, suppress(asyncssh.Error, OSError):  # which are told of below
            while piece := await self._process.stdout.read(_PIECE_BYTES):
                with suppress(OSError):  # a full disk here is nothing to hold it up for
                    log.write(piece)
        await self._process.wait_closed()
        status = self._process.returncode
        return f"lost: {self._connection.lost}" if status is None else how_it_ended(command_status(status))


async def _session(host: str, connection: Connection, line: str) -> _Process:
    """A command's session. Where sshd allows no more of them it is asked again for a while: it may not have
    noticed yet that one is over."""
    end_at = time.monotonic() + _SESSION_TIMEOUT_S
    while True:
        try:
            return await connection.ssh.create_process(line, encoding=None, request_pty=False)
        except (OSError, asyncssh.Error) as error:
            if connection.lost:
                raise HostError(host, f"lost: {connection.lost}") from error
            if time.monotonic() > end_at:
                raise HostError(
                    host, f"sshd allows no further session: {error}; fix: a larger MaxSessions in sshd_config"
                ) from error
        await asyncio.sleep(_SESSION_PAUSE_S)


def _write(process: _Process, content: bytes) -> None:
    with suppress(OSError):  # it has ended already, which is told where it is waited for
        process.stdin.write(content)


async def _feed(process: _Process, source: Path) -> None:
    """A file, to the end, or until the other side has had enough."""
    with suppress(OSError, asyncssh.Error), source.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            process.stdin.write(piece)
            await process.stdin.drain()
        process.stdin.write_eof()


async def _end(process: _Process) -> None:
    """Tell a host to kill a command, and wait a few seconds until it says that it has."""
    with suppress(OSError, asyncssh.Error):
        # The signal for a command that has not read its stdin, the end of stdin for an sshd without signals.
        process.terminate()
        process.stdin.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_TIMEOUT_S):
            await process.wait_closed()
    process.channel.abort()


def _bytes(output: bytes | str | None) -> bytes:
    assert isinstance(output, bytes)
    return output
