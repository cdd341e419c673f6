"""Reads of an open file into memory: by io_uring or by threads, through the page cache or past it
(O_DIRECT)."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from hosts.storage.uring import Ring

DEFAULT_ALIGNMENT = 4096
_T = TypeVar("_T")


class FileReads(Protocol):
    """One way of reading. OSError if it fails; after a cancellation, too, the memory is used no more."""

    async def read(self, fd: int, offset: int, into: memoryview) -> int:
        """Fill ``into`` from ``offset``; fewer bytes than that only at the file's end."""
        ...

    async def close(self) -> None:
        """Give back threads or rings."""
        ...


class ThreadReads:
    """preadv(2) in ``threads``, which their owner ends."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    async def read(self, fd: int, offset: int, into: memoryview) -> int:
        """See `FileReads.read`."""
        return await in_thread(self._threads, lambda: _fill(fd, offset, into))

    async def close(self) -> None:
        """Nothing of its own."""


class UringReads:
    """io_uring with ``depth`` reads in the kernel at once. OSError where there is none."""

    def __init__(self, depth: int) -> None:
        self._ring = Ring(depth)

    def register(self, buffer: memoryview) -> None:
        """Pin a buffer that many reads will go to."""
        self._ring.register(_address(buffer), buffer.nbytes)

    async def read(self, fd: int, offset: int, into: memoryview) -> int:
        """See `FileReads.read`."""
        done, address = 0, _address(into)
        while done < into.nbytes:
            try:
                read = await self._ring.read(fd, offset + done, address + done, into.nbytes - done)
            except OSError as error:
                if _is_past_the_tail(error, done):
                    break
                raise
            if not read:
                break
            done += read
        return done

    async def close(self) -> None:
        """See `FileReads.close`."""
        await self._ring.close()


class DirectReads:
    """``reads`` of files opened with O_DIRECT, which want offset, length and address at multiples of
    ``alignment``.

    What is not aligned is read with its surroundings into memory that is, and copied.
    """

    def __init__(self, reads: FileReads, alignment: int) -> None:
        self._reads, self._alignment = reads, alignment

    async def read(self, fd: int, offset: int, into: memoryview) -> int:
        """See `FileReads.read`."""
        alignment = self._alignment
        if not (offset | into.nbytes | _address(into)) % alignment:
            return await self._reads.read(fd, offset, into)
        begin = offset - offset % alignment
        end = -(-(offset + into.nbytes) // alignment) * alignment
        around = aligned(end - begin, alignment)
        read = await self._reads.read(fd, begin, around)
        found = around[offset - begin : min(read, offset - begin + into.nbytes)]
        into.cast("B")[: len(found)] = found
        return len(found)

    async def close(self) -> None:
        """See `FileReads.close`."""
        await self._reads.close()


async def in_thread(threads: ThreadPoolExecutor, call: Callable[[], _T]) -> _T:
    """The result of ``call``, which is over when this returns, also by cancellation: a system call cannot be
    taken back, and only then is what it used the caller's again."""
    work = asyncio.get_running_loop().run_in_executor(threads, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # looked at here, since nobody else will
        raise


def direct_alignment(root: int) -> int:
    """What O_DIRECT asks for below an open directory: its disk's block size (open(2)), or a page where there
    is none."""
    device = os.fstat(root).st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (folder / "queue", folder / ".." / "queue"):  # a partition's is its disk's
        try:
            return int((queue / "logical_block_size").read_text())
        except OSError:
            continue
    return DEFAULT_ALIGNMENT


def aligned(nbytes: int, alignment: int) -> memoryview:
    """Memory that begins at a multiple of ``alignment``."""
    memory = np.empty(nbytes + alignment, np.uint8)
    first = -memory.ctypes.data % alignment
    return memory[first : first + nbytes].data


def _fill(fd: int, offset: int, into: memoryview) -> int:
    done, target = 0, into.cast("B")
    while done < len(target):
        try:
            read = os.preadv(fd, [target[done:]], offset + done)
        except OSError as error:
            if _is_past_the_tail(error, done):
                break
            raise
        if not read:
            break
        done += read
    return done


def _is_past_the_tail(error: OSError, done: int) -> bool:
    """Whether a read with O_DIRECT went on after the file's last piece, whose end need not be aligned."""
    return done > 0 and error.errno == errno.EINVAL


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
