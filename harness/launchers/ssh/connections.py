"""A connection to each host, through the jump hosts, made when it is first needed and anew when it was lost.

The user's ~/.ssh/config is not read: the inventory says all of it, to whoever runs it.
"""

from __future__ import annotations

import asyncio
import getpass
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import asyncssh

from harness.host_error import HostError
from harness.inventory import InventoryHost, SshLauncher
from harness.launchers.ssh.attempt import (
    KEEPALIVE_S,
    KEEPALIVES_MISSED,
    Attempt,
    Destination,
    UnreachableError,
)
from harness.launchers.ssh.keys import NoKeyError, UserKeys
from harness.launchers.ssh.trust import KnownHosts

SESSIONS_AT_A_TIME = 6
"""For commands that end. sshd allows 10 on a connection (MaxSessions); what goes on running takes one."""
_CLOSE_TIMEOUT_S = 3.0
_JUMP_HOST = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?:(?P<name>[^:@\[\]]+)|\[(?P<ip>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]+))?"
)


class Connection:
    """One that is up, until it is ``lost``: then the reason. ``sessions`` limits those at a time."""

    def __init__(self, ssh: asyncssh.SSHClientConnection, attempt: Attempt) -> None:
        self.ssh = ssh
        self.sessions = asyncio.Semaphore(SESSIONS_AT_A_TIME)
        self._attempt = attempt

    @property
    def lost(self) -> str:
        """Why it is over, '' as long as it is not."""
        return self._attempt.lost

    async def close(self) -> None:
        """End it; at once, where the other side does not answer."""
        self.ssh.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.ssh.wait_closed()
        self.ssh.abort()


class Connections:
    """Those of one launcher. Raises HostError for settings that are of no use with any host."""

    def __init__(self, section: SshLauncher) -> None:
        self._section = section
        self._user = section.user or getpass.getuser()
        self._jumps = [self._jump(words) for words in section.jump.split(",")] if section.jump else []
        self._known_hosts = KnownHosts(section.known_hosts)
        self._keys = UserKeys()
        self._at_a_time = asyncio.Semaphore(section.concurrency)
        self._made: dict[str, asyncio.Task[Connection]] = {}

    async def to(self, host: InventoryHost) -> Connection:
        """The connection to a host; who asks while it is being made gets the same one.

        Raises HostError where there is none, with what to do about it.
        """
        section = self._section
        destination = Destination(
            host.address, host.port or section.port, host.user or self._user, host.key or section.key
        )
        try:
            return await self._shared(host.name, lambda: self._through_jumps(destination))
        except UnreachableError as error:
            raise HostError(host.name, str(error)) from error

    async def close(self) -> None:
        """End all, those behind jump hosts first; what is still being made is given up."""
        made, self._made = self._made, {}
        for task in made.values():
            task.cancel()
        ends = await asyncio.gather(*made.values(), return_exceptions=True)
        up = dict(zip(made, ends, strict=True))
        jumps = [up.pop(_jump_name(level), None) for level in reversed(range(len(self._jumps)))]
        await asyncio.gather(*(end.close() for end in up.values() if isinstance(end, Connection)))
        for end in jumps:
            if isinstance(end, Connection):
                await end.close()
        self._keys.close()

    def _jump(self, words: str) -> Destination:
        if (found := _JUMP_HOST.fullmatch(words.strip())) is None:
            raise HostError("control", f"launcher.jump: found '{words}', expected [user@]host[:port]")
        section = self._section
        address = found["name"] or found["ip"]
        return Destination(
            address, int(found["port"] or section.port), found["user"] or self._user, section.key
        )

    async def _through_jumps(self, to: Destination) -> Connection:
        via: Connection | None = None
        for level, jump in enumerate(self._jumps):
            # One for all hosts: a default argument, as the next one is made through this one.
            def make(
                jump: Destination = jump, via: Connection | None = via
            ) -> Coroutine[Any, Any, Connection]:
                return self._connect(jump, via)

            try:
                via = await self._shared(_jump_name(level), make)
            except UnreachableError as error:
                raise UnreachableError(f"jump host {jump.address}: {error}") from error
        return await self._connect(to, via)

    async def _shared(self, name: str, make: Callable[[], Coroutine[Any, Any, Connection]]) -> Connection:
        task = self._made.get(name)
        if task is None or _is_over(task):
            task = self._made[name] = asyncio.create_task(make())
            # Its error is for those who wait, and all of them may have been cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _connect(self, to: Destination, via: Connection | None) -> Connection:
        timeout_s = self._section.connect_timeout_s
        attempt = Attempt()
        try:
            offer = await self._keys.offer(to.key)
        except NoKeyError as error:
            raise UnreachableError(str(error)) from error
        try:
            async with self._at_a_time, asyncio.timeout(timeout_s):
                ssh = await asyncssh.connect(
                    to.address,
                    to.port,
                    tunnel=via.ssh if via else None,
                    client_factory=lambda: attempt,
                    known_hosts=self._known_hosts.entries,
                    server_host_key_algs=self._known_hosts.kinds(to.address, to.port),
                    username=to.user,
                    client_keys=offer.own(),
                    # Twice as fast as the default, where CPUs have AES.
                    encryption_algs="^aes128-gcm@openssh.com",
                    compression_algs=["none"],
                    # Everything else that a user's files or session could bring in.
                    config=None,
                    agent_path=None,
                    preferred_auth="publickey",
                    gss_host=None,
                    x509_trusted_certs=None,
                    keepalive_interval=KEEPALIVE_S,
                    keepalive_count_max=KEEPALIVES_MISSED,
                )
        except (OSError, asyncssh.Error) as error:
            raise UnreachableError(
                attempt.why_failed(error, to, timeout_s, self._known_hosts, offer)
            ) from error
        return Connection(ssh, attempt)


def _jump_name(level: int) -> str:
    """Among the hosts: their names have no space."""
    return f"jump {level}"


def _is_over(task: asyncio.Task[Connection]) -> bool:
    """Whether there is no connection to be had from it any more."""
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or bool(task.result().lost)
