"""One try to connect: what it saw, and why it failed in words that say what to do."""

from __future__ import annotations

import errno
import shlex
import socket
from typing import NamedTuple

import asyncssh

from harness.launchers.ssh.keys import Offer
from harness.launchers.ssh.trust import KnownHosts

KEEPALIVE_S = 4.0
KEEPALIVES_MISSED = 2
LOST_AFTER_S = KEEPALIVE_S * (KEEPALIVES_MISSED + 1)
"""A host that has said nothing for so long, though asked, is lost."""
_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH)


class UnreachableError(Exception):
    """A host could not be connected to, in words."""


class Destination(NamedTuple):
    """Where an sshd listens, and as whom to come. ``key``: a private key's file, '' for all the user has."""

    address: str
    port: int
    user: str
    key: str

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"


class Attempt(asyncssh.SSHClient):
    """What asyncssh tells about one connection. ``lost``: why it is over, '' as long as it is not."""

    def __init__(self) -> None:
        self.reached = False
        self.refused_key: asyncssh.SSHKey | None = None
        self.lost = ""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Something has taken the connection."""
        self.reached = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if isinstance(exc, asyncssh.ConnectionLost) and "keepalive" in exc.reason:
            self.lost = f"it has not answered for {LOST_AFTER_S:g} s"
        else:
            self.lost = str(exc or "closed")

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked for a key that is not among the known ones: never trusted, but shown."""
        self.refused_key = key
        return False

    def why_failed(
        self,
        error: Exception,
        to: Destination,
        timeout_s: float,
        known_hosts: KnownHosts,
        offer: Offer,
    ) -> str:
        """What was in the way, and what to do about it."""
        place = f"{to.address}:{to.port}"
        match error:
            case asyncssh.HostKeyNotVerifiable() if self.refused_key is not None:
                return known_hosts.why_refused(to.address, to.port, self.refused_key)
            case asyncssh.PermissionDenied():
                return _permission_denied(to, offer)
            case asyncssh.ChannelOpenError():
                return f"the jump host cannot connect to {place}: {error.reason}"
            case TimeoutError() if self.reached:
                return (
                    f"{place} took the connection, but nothing came of it within {timeout_s:g} s; fix: look "
                    "there whether sshd hangs or the host is overloaded, or set a longer connect_timeout_s"
                )
            case TimeoutError():
                return (
                    f"no answer from {place} within {timeout_s:g} s; fix: look whether the host is up, its "
                    "address right, and no firewall in between"
                )
            case socket.gaierror():
                return (
                    f"its address '{to.address}' does not resolve ({error.strerror}); fix: 'address' in the "
                    "inventory"
                )
            case ConnectionRefusedError():
                return (
                    f"nothing listens at {place}; fix: start sshd there, or set 'port' in the inventory to "
                    "where it listens"
                )
            case OSError() if error.errno in _NO_ROUTE:
                return f"no route to {place}; fix: 'address' in the inventory, or a 'jump' host on the way"
            case asyncssh.ConnectionLost() | ConnectionResetError():
                return (
                    f"{place} closed the connection before the login was done; fix: look into sshd's log "
                    "there (MaxStartups, access rules), and whether an sshd it is"
                )
            case asyncssh.DisconnectError():
                return f"{place} ended the login: {error.reason}"
            case _:
                return f"cannot connect to {place}: {error}"


def _permission_denied(to: Destination, offer: Offer) -> str:
    keys = ", ".join(offer.names)
    command = f"ssh-copy-id -i {shlex.quote(offer.names[0])} -p {to.port} {to.user}@{to.address}"
    return (
        f"permission denied for user {to.user} at {to.address}:{to.port} (tried {keys}); fix: {command}, or "
        "set 'user' or 'key' in the inventory to what sshd accepts"
    )
