"""Regions' memory as NIXL names it: a host's, and a GPU's."""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec
import numpy as np

from hosts.cuda.memory import DeviceBuffer
from hosts.transport.base import Region, RemoteRegion


class Memory(msgspec.Struct, frozen=True, array_like=True):
    """Of what ``kind``, at which ``address`` it begins, and on which ``device``.

    NIXL leaves the device of host memory (DRAM) to its user: it is the region's key, so that no two
    registrations are mistaken. That of GPU memory (VRAM) is the GPU, by its number in its own process.
    """

    kind: Literal["DRAM", "VRAM"]
    address: int
    device: int


class DeviceRegion(Region):
    """GPU memory. No byte of it can be seen here: ``view`` is empty."""

    def __init__(self, buffer: DeviceBuffer) -> None:
        super().__init__(np.empty(0, np.uint8))
        self.remote = RemoteRegion(secrets.randbits(63), buffer.nbytes)
        self.memory = Memory("VRAM", buffer.address, buffer.gpu.ordinal)


def memory_of(region: Region) -> Memory:
    """Where the region lies, in this process."""
    if isinstance(region, DeviceRegion):
        return region.memory
    return Memory("DRAM", int(region.view.ctypes.data), region.remote.key)
