"""Copies between a host's own memories through its compute NIC (paper 5.2): RDMA writes of the transport to
its own address, in the traffic class of KV, so that the NIC shares its PCIe link as it shares the network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from hosts.compute.base import ComputeError
from hosts.cuda.memory import DeviceBuffer
from hosts.transport import Connection, Region, RegistersDeviceMemory, Strided, TransferError, Transport


class NicPath:
    """The way through ``transport`` from and to ``host_region``, for threads; the transport's event loop,
    that of `open`, does the work and must not be the one that waits."""

    def __init__(self, transport: Transport, connection: Connection, host_region: Region) -> None:
        self.host_region = host_region
        self._transport, self._connection = transport, connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, transport: Transport, host_region: Region) -> NicPath:
        """Connect the transport, with which the host's KV is registered, with itself; raises
        `TransferError`."""
        return cls(transport, await transport.connect(transport.address, "low"), host_region)

    def offer(self, memory: NDArray[np.uint8] | DeviceBuffer) -> Region:
        """Let the NIC at it until `withdraw`. Raises `ComputeError` for GPU memory that it cannot reach."""
        if not isinstance(memory, DeviceBuffer):
            return self._transport.register(memory)
        if not isinstance(self._transport, RegistersDeviceMemory):
            raise ComputeError(
                "copies through the NIC: this transport moves no GPU memory; expected verbs or nixl, or the "
                "GPU's copy engines"
            )
        try:
            return self._transport.register_device_memory(memory)
        except TransferError as error:
            raise ComputeError(f"copies through the NIC: {error}; or use the GPU's copy engines") from error

    def withdraw(self, region: Region) -> None:
        """What was offered. Nothing is under way in it any more."""
        self._transport.deregister(region)

    def write(self, source: Region, source_at: Strided, target: Region, target_at: Strided) -> Future[None]:
        """Done when the bytes are in place, or with a `TransferError`."""
        work = self._connection.write(source, source_at, target.remote, target_at)
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def located(rows: NDArray[np.uint8], regions: Sequence[Region]) -> tuple[Region, Strided]:
    """Where ``rows`` [n, width] lie among regions of host memory, one of which has them; n and width are at
    least 1."""
    count, width = rows.shape
    stride = rows.strides[0] if count > 1 else width
    for region in regions:
        offset = rows.ctypes.data - region.view.ctypes.data
        at = Strided(offset, width, count, stride)
        if at.fault(region.remote.length) is None:
            return region, at
    raise ValueError(f"rows at {rows.ctypes.data:#x} lie in no memory that the NIC was offered")
