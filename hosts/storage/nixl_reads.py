"""Reads of open files by NIXL's POSIX backend (io_uring below it), to be compared with our own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hosts.nixl_agent import POLL_S, NixlAgent, NixlError, Transfer, rows
from hosts.storage.file_reads import ThreadReads
from hosts.ticks import Ticks

_WHOLE_FILE = 1 << 62
_MAX_READ_BYTES = 1 << 30
"""read(2) and io_uring give back less than 2 GiB at once."""
_log = logging.getLogger(__name__)


class NixlReads:
    """``depth`` reads in the kernel at once. `NixlError` where NIXL is not installed, or has no io_uring.

    NIXL tells that a read failed or came back short, but neither why nor how short. What reaches past the end
    of a file, and what failed, is therefore read in ``threads``, which their owner ends.
    """

    def __init__(self, depth: int, threads: ThreadPoolExecutor) -> None:
        self._agent = NixlAgent("POSIX", {"use_uring": "true", "kernel_queue_size": str(depth)})
        self._ticks = Ticks(POLL_S, self._poll)
        self._in_threads = ThreadReads(threads)
        self._files: dict[int, tuple[Any, int]] = {}
        self._under_way: dict[Transfer, asyncio.Future[bool]] = {}
        self._numbers = itertools.count(1)

    async def read(self, fd: int, offset: int, into: memoryview) -> int:
        """See `FileReads.read`."""
        if offset + into.nbytes <= os.fstat(fd).st_size and await self._read_all(fd, offset, into):
            return into.nbytes
        return await self._in_threads.read(fd, offset, into)

    async def close(self) -> None:
        """See `FileReads.close`. Waits for what the kernel is doing."""
        if self._under_way:
            await asyncio.wait(self._under_way.values())
        self._ticks.close()
        self._agent.close()

    async def _read_all(self, fd: int, offset: int, into: memoryview) -> bool:
        """Whether NIXL filled ``into``. After a cancellation, too, the memory is used no more."""
        address, number = int(np.frombuffer(into, np.uint8).ctypes.data), next(self._numbers)
        parts = [
            (at, min(_MAX_READ_BYTES, into.nbytes - at)) for at in range(0, into.nbytes, _MAX_READ_BYTES)
        ]
        memory = self._agent.register("DRAM", rows((address, into.nbytes, number)))
        self._open(fd)
        try:
            transfer = self._agent.post(
                "READ",
                rows(*((address + at, nbytes, number) for at, nbytes in parts)),
                rows(*((offset + at, nbytes, fd) for at, nbytes in parts)),
                self._agent.name,
                remote_kind="FILE",
            )
            return await self._end_of(transfer)
        except NixlError as error:
            _log.warning("NIXL refused a read, which goes on in a thread: %s", error)
            return False
        finally:
            self._close(fd)
            self._agent.deregister(memory)

    async def _end_of(self, transfer: Transfer) -> bool:
        end = self._under_way[transfer] = asyncio.get_running_loop().create_future()
        self._ticks.start()
        try:
            return await asyncio.shield(end)
        except asyncio.CancelledError:
            await asyncio.wait([end])
            raise

    def _poll(self) -> bool:
        for transfer, end in tuple(self._under_way.items()):
            try:
                if not transfer.done():
                    continue
                end.set_result(True)
            except NixlError as error:
                _log.warning("NIXL failed to read, which is tried again in a thread: %s", error)
                end.set_result(False)
            transfer.release()
            del self._under_way[transfer]
        return bool(self._under_way)

    def _open(self, fd: int) -> None:
        """The agent knows a file while anyone reads it: its descriptor is another's afterwards."""
        registration, readers = self._files.get(fd) or (None, 0)
        if registration is None:
            registration = self._agent.register("FILE", rows((0, _WHOLE_FILE, fd)))
        self._files[fd] = registration, readers + 1

    def _close(self, fd: int) -> None:
        registration, readers = self._files.pop(fd)
        if readers > 1:
            self._files[fd] = registration, readers - 1
        else:
            self._agent.deregister(registration)
