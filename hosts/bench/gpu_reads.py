"""Reads of a file's blocks into a GPU's memory: directly by cuFile, or through page-locked host memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from hosts.bench.load import Observed, closed_loop
from hosts.bench.reads import Reads, offsets
from hosts.buffers import BufferArena
from hosts.config import StorageConfig
from hosts.cuda.copies import copy_whole
from hosts.cuda.cufile import CuFile, CuFileError, DirectFile, RegisteredBuffer
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer, PinnedMemory
from hosts.cuda.streams import Stream
from hosts.storage.file_reads import in_thread
from hosts.storage.posix import PosixStorage

_PAGE_BYTES = 4096


class CuFileUse(msgspec.Struct, frozen=True):
    """How cuFile read. ``direct``: it was forbidden to go through host memory, and read all the same.
    ``compatibility``: forbidden that, it refused for this ``reason``, and so was let through host memory.
    ``unknown``: it read, but could not be forbidden that."""

    mode: Literal["direct", "compatibility", "unknown"]
    reason: str
    version: str
    nvidia_fs: str


class Way(NamedTuple):
    """``read`` brings the block at an offset of the file to a worker's part of ``memory``, which has one of
    ``block_bytes`` for each, by ``engine``."""

    engine: str
    memory: DeviceBuffer
    read: Callable[[int, int], Awaitable[None]]


@contextmanager
def opened_cufile(gpu: Gpu, path: Path) -> Iterator[tuple[CuFile, CuFileUse]]:
    """cuFile for reads of ``path``, in its compatibility mode only where it reads in no other; CuFileError if
    it does not in that. ``gpu`` is current."""
    mode, reason = _try_directly(gpu, path)
    with closing(CuFile(direct_only=mode != "compatibility")) as cufile:
        yield cufile, CuFileUse(mode, reason, cufile.version, cufile.nvidia_fs)


def _try_directly(gpu: Gpu, path: Path) -> tuple[Literal["direct", "compatibility", "unknown"], str]:
    try:
        with (
            closing(CuFile(direct_only=True)) as cufile,
            closing(DeviceBuffer(gpu, _PAGE_BYTES)) as memory,
            closing(RegisteredBuffer(cufile, memory)) as buffer,
            closing(DirectFile(cufile, path)) as file,
        ):
            file.read(buffer, 0, 0, _PAGE_BYTES)
            if cufile.certain:
                return "direct", ""
            return "unknown", "its properties allow it to go through host memory: see cufile.json"
    except CuFileError as error:
        return "compatibility", str(error)


@asynccontextmanager
async def by_cufile(gpu: Gpu, cufile: CuFile, path: Path, reads: Reads) -> AsyncIterator[Way]:
    """A read is one cuFileRead, in a thread of the worker's own."""
    block = reads.block_bytes
    with (
        closing(DeviceBuffer(gpu, block * reads.depth)) as memory,
        closing(RegisteredBuffer(cufile, memory)) as buffer,
        closing(DirectFile(cufile, path)) as file,
        ThreadPoolExecutor(reads.depth, thread_name_prefix="cufile") as threads,
    ):

        def fetch(worker: int, offset: int) -> None:
            with gpu.current():
                file.read(buffer, worker * block, offset, block)

        async def read(worker: int, offset: int) -> None:
            await in_thread(threads, lambda: fetch(worker, offset))

        yield Way("cufile", memory, read)


@asynccontextmanager
async def through_host(gpu: Gpu, config: StorageConfig, path: Path, reads: Reads) -> AsyncIterator[Way]:
    """A read is one of the store's to page-locked memory, as to a PE buffer, and then a copy from there on a
    stream of the worker's own, awaited in a thread of its own."""
    block = reads.block_bytes
    storage = PosixStorage(config)
    try:
        host = BufferArena(block * reads.depth, _PAGE_BYTES).view[: block * reads.depth]
        storage.register(host.data)
        with (
            closing(DeviceBuffer(gpu, host.nbytes)) as memory,
            closing(PinnedMemory(gpu, host)) as pinned,
            ExitStack() as resources,
            ThreadPoolExecutor(reads.depth, thread_name_prefix="h2d") as threads,
        ):
            streams = [resources.enter_context(closing(Stream(gpu))) for _ in range(reads.depth)]

            def copy(worker: int) -> None:
                at, stream = worker * block, streams[worker]
                with gpu.current():
                    copy_whole(memory.address + at, pinned.address + at, block, "h2d", stream.handle)
                    stream.synchronize()

            async def read(worker: int, offset: int) -> None:
                await storage.read_into(path.name, offset, host[worker * block : (worker + 1) * block].data)
                await in_thread(threads, lambda: copy(worker))

            yield Way(storage.engine, memory, read)
    finally:
        await storage.close()


async def measure(
    opening: AbstractAsyncContextManager[Way],
    path: Path,
    file_bytes: int,
    reads: Reads,
    warm_up_s: float = 0.5,
) -> tuple[str, Observed]:
    """The engine that read, and what it observed, after the way's bytes were verified."""
    async with opening as way:
        await _verify(way, path, file_bytes, reads)
        at = offsets(reads, file_bytes)

        async def operation(worker: int) -> None:
            await way.read(worker, next(at))

        loop = closed_loop(operation, reads.depth, reads.block_bytes, reads.seconds, warm_up_s)
        return way.engine, await loop


async def _verify(way: Way, path: Path, file_bytes: int, reads: Reads) -> None:
    """Every worker reads a block, which are spread over the file, into zeros; CudaError if it is not what the
    page cache has of the file."""
    block = reads.block_bytes
    places = np.linspace(0, file_bytes // block - 1, reads.depth).astype(int) * block
    way.memory.clear()
    for worker, place in enumerate(places.tolist()):
        await way.read(worker, place)
    found = way.memory.read().reshape(reads.depth, block)
    with path.open("rb") as file:
        for worker, place in enumerate(places.tolist()):
            file.seek(place)
            wrong = np.flatnonzero(found[worker] != np.frombuffer(file.read(block), np.uint8))
            if wrong.size:
                raise CudaError(
                    f"GPU {way.memory.gpu.ordinal}: {way.engine}, {block} bytes at {place} of {path}: found "
                    f"{wrong.size} wrong bytes in the GPU's memory, the first is number {wrong[0]}, expected "
                    "none; what reads wrongly is not timed"
                )
