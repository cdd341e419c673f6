"""Transfers between two processes: an initiator here, a target in a process of its own.

    python -m hosts.bench.transfers CONFIG

is the target: CONFIG is a `Target` as JSON; it prints an `Offer`, and when its standard input ends, it does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Literal

import msgspec

from hosts.bench.load import Observed, closed_loop
from hosts.buffers import BufferArena
from hosts.config import PageKind, TransportConfig
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer
from hosts.transport import (
    Region,
    RegistersDeviceMemory,
    RemoteRegion,
    Strided,
    TrafficClass,
    TransferError,
    Transport,
    open_transport,
)

_PAGE_BYTES = 4096
_PAGES: PageKind = "transparent"
Direction = Literal["read", "write"]
MemoryKind = Literal["host", "gpu"]
"""Host buffers on huge pages, or the first GPU's memory ($CUDA_VISIBLE_DEVICES says which that is)."""


class Target(msgspec.Struct, frozen=True):
    """What the other process offers: ``buffer_bytes`` of memory through a transport."""

    transport: TransportConfig
    buffer_bytes: int
    memory: MemoryKind


class Offer(msgspec.Struct, frozen=True):
    """Where it is, and the process to account for."""

    address: str
    region: RemoteRegion
    pid: int


class Transfers(msgspec.Struct, frozen=True):
    """``depth`` operations at once, each of ``batch`` blocks that lie ``spread`` times their size apart at
    the target.

    A layer of n Full Blocks is a batch of n Layer Blocks (paper 4.1): contiguous here, strided there.
    """

    direction: Direction
    block_bytes: int
    batch: int
    depth: int
    traffic_class: TrafficClass
    seconds: float
    memory: MemoryKind = "host"
    spread: int = 2

    @property
    def operation_bytes(self) -> int:
        """Bytes of one operation."""
        return self.block_bytes * self.batch

    @property
    def target_bytes(self) -> int:
        """What the target has to offer."""
        return self.operation_bytes * self.depth * (self.spread if self.batch > 1 else 1)


async def initiate(
    config: TransportConfig,
    offer: Offer,
    transfers: Transfers,
    target_cpu_s: Callable[[], float],
    warm_up_s: float = 0.5,
) -> Observed:
    """Run ``transfers`` against the offer; ``target_cpu_s`` is what its process has used so far."""
    transport = await open_transport(config)
    try:
        with registered(transport, transfers.operation_bytes * transfers.depth, transfers.memory) as local:
            return await _loop(transport, local, offer, transfers, target_cpu_s, warm_up_s)
    finally:
        await transport.close()


async def _loop(
    transport: Transport,
    local: Region,
    offer: Offer,
    transfers: Transfers,
    target_cpu_s: Callable[[], float],
    warm_up_s: float,
) -> Observed:
    connection = await transport.connect(offer.address, transfers.traffic_class)
    perform = connection.read if transfers.direction == "read" else connection.write
    spread = transfers.spread if transfers.batch > 1 else 1

    async def operation(worker: int) -> None:
        here = Strided(worker * transfers.operation_bytes, transfers.operation_bytes)
        there = Strided(
            worker * transfers.operation_bytes * spread,
            transfers.block_bytes,
            transfers.batch,
            transfers.block_bytes * spread,
        )
        await perform(local, here, offer.region, there)

    def cpu_s() -> float:
        return time.process_time() + target_cpu_s()

    each = transfers.operation_bytes
    return await closed_loop(operation, transfers.depth, each, transfers.seconds, warm_up_s, cpu_s)


@contextmanager
def registered(transport: Transport, nbytes: int, memory: MemoryKind) -> Iterator[Region]:
    """``nbytes`` of memory, offered through ``transport`` for so long."""
    if memory == "host":
        yield transport.register(BufferArena(nbytes, _PAGE_BYTES, pages=_PAGES).view)
        return
    if not isinstance(transport, RegistersDeviceMemory):
        reason = "this transport moves no GPU memory; expected verbs, nixl, or memory on the host"
        raise TransferError(transport.address, "register", 0, 0, reason)
    page = os.sysconf("SC_PAGE_SIZE")
    # The GPU is current in the transport's thread: UCX, below NIXL, copies in its context before UCX 1.19.
    with (
        closing(Gpu()) as gpu,
        gpu.current(),
        closing(DeviceBuffer(gpu, -(-nbytes // page) * page)) as buffer,
    ):
        region = transport.register_device_memory(buffer)
        try:
            yield region
        finally:
            transport.deregister(region)


async def _serve(target: Target) -> None:
    transport = await open_transport(target.transport)
    try:
        with registered(transport, target.buffer_bytes, target.memory) as region:
            offer = Offer(transport.address, region.remote, os.getpid())
            sys.stdout.write(msgspec.json.encode(offer).decode() + "\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)
    finally:
        await transport.close()


if __name__ == "__main__":
    try:
        asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=Target)))
    except (TransferError, CudaError) as error:
        sys.exit(f"target: {error}")
