"""What every transport between processes promises when the other one dies, stops or is slow."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from transports import BETWEEN_PROCESSES, SLOWNESS, Pair, config_of, over_pair

from hosts.config import TransportConfig
from hosts.transport import (
    Connection,
    Region,
    RemoteRegion,
    Strided,
    TransferError,
    Transport,
    open_transport,
)


class PeerProcess:
    """`transport_peer.py` running."""

    def __init__(
        self, config: TransportConfig, nbytes: int, elsewhere: tuple[str, RemoteRegion] | None = None
    ) -> None:
        arguments = [msgspec.json.encode(config).decode(), str(nbytes)]
        if elsewhere is not None:
            arguments += [elsewhere[0], msgspec.json.encode(elsewhere[1]).decode()]
        script = Path(__file__).with_name("transport_peer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(script.parents[2])},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address, self.region = msgspec.json.decode(line, type=tuple[str, RemoteRegion])

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Apart(NamedTuple):
    """An initiator here, connected to a target in a process of its own."""

    initiator: Transport
    peer: PeerProcess
    connection: Connection
    local: Region


def over_processes(
    kind: str,
    nbytes: int,
    test: Callable[[Apart], Coroutine[Any, Any, None]],
    pace: float = 0.0,
    **config: Any,
) -> None:
    """``pace``: bytes/s of both ends; whichever meters the bytes of a read."""

    async def run() -> None:
        target = config_of(kind, 1, pace_bytes_per_s=pace)
        async with asyncio.timeout(30):
            initiator = await open_transport(config_of(kind, 0, pace_bytes_per_s=pace, **config))
            try:
                with PeerProcess(target, nbytes) as peer:
                    local = initiator.register(np.zeros(nbytes, np.uint8))
                    connection = await initiator.connect(peer.address)
                    await test(Apart(initiator, peer, connection, local))
            finally:
                await initiator.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
def test_a_peer_killed_in_mid_transfer_fails_everything_at_once(kind: str) -> None:
    nbytes = 8 << 20
    whole = Strided(0, nbytes)

    async def test(ends: Apart) -> None:
        reads = [ends.connection.read(ends.local, whole, ends.peer.region, whole) for _ in range(3)]
        transfers = [asyncio.create_task(call) for call in (*reads, ends.connection.notify(b"x"))]
        while not ends.local.view.any():  # noqa: ASYNC110 - memory tells nobody when it changes
            await asyncio.sleep(0.005)
        outstanding = [transfer for transfer in transfers[:3] if not transfer.done()]
        ends.peer.process.kill()
        killed_at = time.monotonic()
        await asyncio.gather(*transfers, return_exceptions=True)
        assert time.monotonic() - killed_at < 1
        assert len(outstanding) >= 2
        for transfer in outstanding:
            error = transfer.exception()
            assert isinstance(error, TransferError)
            assert error.peer == ends.peer.address
            assert ends.peer.address in str(error)

    over_processes(kind, nbytes, test, pace=20e6)


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
def test_an_initiator_killed_in_mid_transfer_harms_nobody_else(kind: str) -> None:
    nbytes = 16 << 20

    async def test(ends: Pair) -> None:
        for _ in range(3):
            written = asyncio.Event()
            ends.target.on_notification(lambda _, written=written: written.set())
            offered = ends.target.address, ends.remote.remote
            with PeerProcess(config_of(kind, 0), nbytes, offered):
                await written.wait()
            ends.remote.view[:] = 9
            at = Strided(nbytes // 2, 1 << 20)  # where it wrote nothing
            await ends.connection.read(ends.local, at, ends.remote.remote, at)
            assert (at.run(ends.local.view) == 9).all()

    over_pair(kind, test, nbytes=nbytes)


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
def test_a_peer_that_stops_answering_is_an_error_after_the_timeout(kind: str) -> None:
    timeout_s = 0.4 * SLOWNESS[kind]
    silent = rf"no (progress|completion|answer).* {timeout_s:g} s|retry counter exceeded"

    async def test(ends: Apart) -> None:
        at = Strided(0, 4096)
        if kind == "verbs":  # a stopped process's device still answers reads; nobody takes its messages
            call = ends.connection.notify(b"anyone there?")
        else:
            call = ends.connection.read(ends.local, at, ends.peer.region, at)
        ends.peer.process.send_signal(signal.SIGSTOP)
        began_at = time.monotonic()
        with pytest.raises(TransferError, match=silent):
            await call
        assert timeout_s <= time.monotonic() - began_at < 5 * timeout_s
        with pytest.raises(TransferError, match=silent):
            await ends.initiator.connect(ends.peer.address)

    over_processes(kind, 1 << 20, test, timeout_s=timeout_s)


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
def test_a_slow_transfer_outlives_the_timeout_as_long_as_bytes_pass(kind: str) -> None:
    whole = Strided(0, 1 << 20)

    async def test(ends: Apart) -> None:
        began_at = time.monotonic()
        await ends.connection.read(ends.local, whole, ends.peer.region, whole)
        assert time.monotonic() - began_at > 2 * timeout_s
        assert (ends.local.view == 7).all()

    timeout_s = 0.2 * SLOWNESS[kind]
    over_processes(kind, whole.nbytes, test, pace=0.3e6 / timeout_s, timeout_s=timeout_s)
