"""What a host's paths carry when nothing else uses them: to its storage, and to another host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from hosts.host import Host
from hosts.protocol import Ceiling, MeasureStorage, MeasureTransfer
from hosts.rails import connected
from hosts.transport import Strided

_WARM_UP_S = 0.3
_READERS = 4
_TRANSFER_DEPTH = 8
_PIECE_BYTES = 1 << 20


async def storage_ceiling(host: Host, command: MeasureStorage) -> Ceiling:
    """Several reads always queued, as in a busy repetition."""

    async def read(number: int) -> None:
        key, nbytes = command.objects[number % len(command.objects)]
        target = np.empty(nbytes, np.uint8)
        await host.reads.read([(key, 0, memoryview(target.data))])

    bytes_before = host.storage.bytes_read
    return await _observed(read, _READERS, command.duration_s, lambda: host.storage.bytes_read - bytes_before)


async def transfer_ceiling(host: Host, command: MeasureTransfer) -> Ceiling:
    """Several one-sided reads from the peer's buffer into this host's always outstanding, on every rail."""
    addresses, regions = host.peers[command.peer], command.regions
    paths = [
        (host.rails[here].region, regions[there], await host.rails[here].transport.connect(addresses[there]))
        for here, there in connected(len(host.rails), len(addresses))
    ]
    there_bytes = regions[0].length
    piece_bytes = min(_PIECE_BYTES, len(host.arena.view), there_bytes)
    here, there = len(host.arena.view) // piece_bytes, there_bytes // piece_bytes
    done_bytes = 0

    async def read(number: int) -> None:
        nonlocal done_bytes
        local = Strided(number % here * piece_bytes, piece_bytes)
        remote = Strided(number % there * piece_bytes, piece_bytes)
        into, region, connection = paths[number % len(paths)]
        await connection.read(into, local, region, remote)
        done_bytes += piece_bytes

    depth = min(_TRANSFER_DEPTH * len(paths), here)
    return await _observed(read, depth, command.duration_s, lambda: done_bytes)


async def _observed(
    operation: Callable[[int], Coroutine[Any, Any, object]],
    depth: int,
    seconds: float,
    done_bytes: Callable[[], int],
) -> Ceiling:
    """The rate of a closed loop of ``depth`` operations; its first moments do not count."""
    ends_at = time.monotonic() + _WARM_UP_S + seconds

    async def work(number: int) -> None:
        while time.monotonic() < ends_at:
            await operation(number)
            number += depth

    async def observe() -> float:
        await asyncio.sleep(_WARM_UP_S)
        began_at, before = time.monotonic(), done_bytes()
        await asyncio.sleep(seconds)
        return (done_bytes() - before) / (time.monotonic() - began_at)

    async with asyncio.TaskGroup() as group:
        rate = group.create_task(observe())
        for number in range(depth):
            group.create_task(work(number))
    return Ceiling(rate.result())
