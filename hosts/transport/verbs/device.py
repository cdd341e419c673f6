"""The RDMA device of a compute NIC: opened once, with its protection domain, limits and registered memory."""

from __future__ import annotations

import errno
import math
import os
import resource
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from pyverbs.device import Context
from pyverbs.mr import MR, DmaBufMR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError

from hosts.config import TransportConfig
from hosts.cuda.memory import DeviceBuffer, dma_buf
from hosts.transport.base import Bytes, Region, RemoteRegion
from hosts.transport.verbs.port import PortError, find_port

_ACCESS_LOCAL = 1  # IBV_ACCESS_LOCAL_WRITE
_ACCESS_REMOTE = 1 | 2 | 4  # and remote write and read
_MTU_CODES = {256: 1, 512: 2, 1024: 3, 2048: 4, 4096: 5}  # enum ibv_mtu
_MAX_READS = 16
_TIMEOUT_UNIT_S = 4.096e-6
_TRIES = 8


class Nowhere(NamedTuple):
    """Registered memory for receives of no bytes."""

    base: int
    lkey: int


class RegisteredMemory(Region):
    """A buffer that the device reads and writes. ``lkey`` names it in local work requests."""

    def __init__(self, buffer: memoryview | bytearray | Bytes, domain: Any, access: int) -> None:
        super().__init__(buffer)
        address = self.view.ctypes.data
        self._region = MR(domain, self.view.nbytes, access, address=address)
        self.lkey: int = self._region.lkey
        self.remote = RemoteRegion(self._region.rkey, self.view.nbytes, address)

    def close(self) -> None:
        """Withdraw it from the device."""
        self.registered = False
        self._region.close()


class RegisteredDeviceMemory(RegisteredMemory):
    """GPU memory that the device reads and writes by way of a dma-buf (paper 5.2). No byte of it can be seen
    here: ``view`` is empty."""

    def __init__(self, memory: DeviceBuffer, domain: Any, access: int) -> None:
        Region.__init__(self, np.empty(0, np.uint8))
        with ExitStack() as resources:
            fd = dma_buf(memory)
            resources.callback(os.close, fd)
            self._region = DmaBufMR(domain, memory.nbytes, access, fd)
            self._dma_buf = resources.pop_all()
        self.lkey = self._region.lkey
        # pyverbs names bytes of a dma-buf by their offset in it.
        self.remote = RemoteRegion(self._region.rkey, memory.nbytes, address=0)

    def close(self) -> None:
        """See `RegisteredMemory.close`."""
        with self._dma_buf:
            super().close()


class Device:
    """Raises `PortError` if there is none to open, or none that this process may use."""

    def __init__(self, address: str, config: TransportConfig) -> None:
        self.config = config.verbs
        self.port = find_port(address, self.config)
        with ExitStack() as resources:
            try:
                self.context = resources.enter_context(Context(name=self.port.device))
            except PyverbsRDMAError as error:
                raise PortError(
                    f"{self.port}: cannot be opened: {error}; expected read and write access to "
                    f"/dev/infiniband"
                ) from error
            self.domain = resources.enter_context(PD(self.context))
            limits = self.context.query_device()
            self.send_depth = min(self.config.send_depth, limits.max_qp_wr)
            self.max_entries = min(self.config.max_entries, limits.max_sge)
            self.max_reads = min(_MAX_READS, limits.max_qp_rd_atom)
            self._memory = np.zeros(8, np.uint8)
            self._nowhere = self.register(self._memory, remote=False)
            resources.callback(self._nowhere.close)
            self.mtu_bytes = self._mtu_bytes()
            self._resources = resources.pop_all()
        self.nowhere = Nowhere(self._memory.ctypes.data, self._nowhere.lkey)
        self.timeout_code = _timeout_code(config.timeout_s)

    def register(self, buffer: memoryview | bytearray | Bytes, *, remote: bool = True) -> RegisteredMemory:
        """Pin a buffer and let the device at it; ``remote``: and peers. MemoryError says which limit is in
        the way."""
        try:
            return RegisteredMemory(buffer, self.domain, _ACCESS_REMOTE if remote else _ACCESS_LOCAL)
        except PyverbsRDMAError as error:
            if error.error_code in (errno.ENOMEM, errno.EAGAIN, errno.EPERM):
                soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
                limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} bytes"
                raise MemoryError(
                    f"{self.port}: cannot register {np.frombuffer(buffer, np.uint8).nbytes} bytes: {error}; "
                    f"the limit of locked memory is {limit}: raise memlock (ulimit -l, "
                    "/etc/security/limits.d, LimitMEMLOCK=)"
                ) from error
            raise

    def register_device_memory(self, memory: DeviceBuffer) -> RegisteredDeviceMemory:
        """Let the device and peers at GPU memory; PortError if the device takes no dma-buf."""
        try:
            return RegisteredDeviceMemory(memory, self.domain, _ACCESS_REMOTE)
        except PyverbsRDMAError as error:
            raise PortError(
                f"{self.port}: cannot register {memory.nbytes} bytes of GPU {memory.gpu.ordinal} by dma-buf: "
                f"{error}; expected a NIC that takes dma-bufs (mlx5, Linux 5.12 or newer) near the GPU"
            ) from error

    def mtu_code(self, peer_mtu_bytes: int) -> int:
        """``enum ibv_mtu`` of the path to a peer: the smaller of the two."""
        return _MTU_CODES[min(self.mtu_bytes, peer_mtu_bytes)]

    def _mtu_bytes(self) -> int:
        """The configured path MTU, or the port's active one."""
        active_code = self.context.query_port(self.port.number).active_mtu
        active = next(size for size, code in _MTU_CODES.items() if code == active_code)
        wanted = self.config.mtu_bytes or active
        if wanted not in _MTU_CODES or wanted > active:
            possible = ", ".join(str(size) for size in _MTU_CODES if size <= active)
            raise PortError(
                f"{self.port}: MTU of {wanted} bytes asked for, its active MTU is {active}; expected one of "
                f"{possible}, or a larger MTU on its interface and the switches between"
            )
        return wanted

    def close(self) -> None:
        """Close everything that was opened on it. Regions and endpoints are closed before."""
        self._resources.close()


def _timeout_code(timeout_s: float) -> int:
    """Exponent of the acknowledgement timeout so that all tries together take about ``timeout_s``
    (ibv_modify_qp(3))."""
    return max(1, min(31, math.floor(math.log2(timeout_s / _TRIES / _TIMEOUT_UNIT_S))))
