"""Connections between hosts of one run: who dials and who listens prove themselves (`hosts.transport.proof`)
before anything else is said. Costs a connection a round trip, and its transfers nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from hosts.config import ClassMark, TransportConfig
from hosts.peer_input import ProtocolError
from hosts.transport.base import TransferError
from hosts.transport.proof import prove_to_initiator, prove_to_target

MAX_STRANGERS = 256
"""Connections that have proved nothing yet; more are closed at once."""
_LOG_INTERVAL_S = 10.0
_LOGGED_PER_INTERVAL = 10
_log = logging.getLogger(__name__)


class Entrance:
    """A listening socket. ``admit`` is given the connections of those who have proved themselves within
    ``timeout_s``, and owns them; all others are closed."""

    def __init__(
        self, listener: socket.socket, config: TransportConfig, admit: Callable[[socket.socket, str], None]
    ) -> None:
        self.address = _text(*listener.getsockname()[:2])
        self._listener = listener
        self._config = config
        self._admit = admit
        self._strangers: set[asyncio.Task[None]] = set()
        self._refusals = _Refusals()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener, self._accept)

    @classmethod
    def open(cls, config: TransportConfig, admit: Callable[[socket.socket, str], None]) -> Entrance:
        """Listen on a free port of ``config.bind_address``; raises `TransferError` if that cannot be done."""
        family = socket.AF_INET6 if ":" in config.bind_address else socket.AF_INET
        try:
            listener = socket.create_server((config.bind_address, 0), family=family, backlog=256)
        except OSError as error:
            reason = f"cannot listen there: {error.strerror or error}"
            raise TransferError(config.bind_address, "listen", 0, 0, reason) from error
        listener.setblocking(False)
        return cls(listener, config, admit)

    def _accept(self) -> None:
        try:
            while True:
                sock, name = self._listener.accept()
                self._receive(sock, _text(*name[:2]))
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.error("no longer accepting connections on %s: %s", self.address, error)
            self._loop.remove_reader(self._listener)

    def _receive(self, sock: socket.socket, peer: str) -> None:
        if len(self._strangers) >= MAX_STRANGERS:
            sock.close()
            return self._refusals.log(peer, f"{MAX_STRANGERS} connections have proved nothing yet")
        sock.setblocking(False)
        task = asyncio.create_task(self._examine(sock, peer))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _examine(self, sock: socket.socket, peer: str) -> None:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await prove_to_initiator(sock, self._config.key, self.address)
        except asyncio.CancelledError:
            sock.close()
            raise
        except (OSError, EOFError, ProtocolError) as error:
            sock.close()
            late = isinstance(error, TimeoutError)
            self._refusals.log(
                peer, f"no proof within {self._config.timeout_s:g} s" if late else _words(error)
            )
        else:
            self._admit(sock, peer)

    async def close(self) -> None:
        """Listen no more, and close the connections that have proved nothing yet."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._strangers:
            task.cancel()
        await asyncio.gather(*self._strangers, return_exceptions=True)


async def dial(address: str, config: TransportConfig, mark: ClassMark | None = None) -> socket.socket:
    """A connection to the `Entrance` at ``address``, where both ends have proved themselves; its packets bear
    ``mark`` from the first on. Raises `TransferError` if there is none within ``config.timeout_s``."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(config.timeout_s):
            sock.setblocking(False)
            if mark is not None:
                mark_packets(sock, mark)
            sock.bind((config.bind_address, 0))
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
            await prove_to_target(sock, config.key, address)
    except BaseException as error:
        sock.close()
        if not isinstance(error, OSError | EOFError | ValueError | OverflowError):
            raise
        reason = _words(error) or f"no answer in {config.timeout_s:g} s"
        raise TransferError(address, "connect", 0, 0, reason) from error
    return sock


def mark_packets(sock: socket.socket, mark: ClassMark) -> None:
    """Set the DSCP of what ``sock`` sends (ip(7), IP_TOS; ipv6(7), IPV6_TCLASS)."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, mark.traffic_class)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, mark.traffic_class)


class _Refusals:
    """Says who was refused and why, but lets nobody fill the log."""

    def __init__(self) -> None:
        self._began_at = -_LOG_INTERVAL_S
        self._logged = self._silent = 0

    def log(self, peer: str, reason: str) -> None:
        now_at = time.monotonic()
        if now_at - self._began_at >= _LOG_INTERVAL_S:
            if self._silent:
                _log.warning("refused %d more connections", self._silent)
            self._began_at, self._logged, self._silent = now_at, 0, 0
        if self._logged < _LOGGED_PER_INTERVAL:
            self._logged += 1
            _log.warning("refused %s: %s", peer, reason)
        else:
            self._silent += 1


def _words(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
