"""Reads of one large file of a directory, as a store's readers would do them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import msgspec
import numpy as np

from hosts.bench.load import Observed, closed_loop
from hosts.buffers import BufferArena
from hosts.config import StorageConfig
from hosts.storage.posix import PosixStorage

_PAGE_BYTES = 4096
_WRITE_BYTES = 16 * 1024 * 1024


class Reads(msgspec.Struct, frozen=True):
    """``depth`` blocks at once, in the order of the file or at random block positions."""

    block_bytes: int
    depth: int
    random: bool
    seconds: float


def offsets(reads: Reads, file_bytes: int) -> Iterator[int]:
    """Where the blocks begin, in the order in which they are read, again and again."""
    blocks = file_bytes // reads.block_bytes
    order = np.random.default_rng(1).permutation(blocks) if reads.random else np.arange(blocks)
    return cycle(int(block) * reads.block_bytes for block in order)


@contextmanager
def filled_file(root: Path, nbytes: int) -> Iterator[Path]:
    """A file of random bytes on the medium, gone afterwards; OSError if there is no room."""
    path = root / f"dualpath-bench-{secrets.token_hex(4)}"
    try:
        with path.open("wb") as file:
            for first in range(0, nbytes, _WRITE_BYTES):
                file.write(os.urandom(min(_WRITE_BYTES, nbytes - first)))
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


async def read_file(
    config: StorageConfig, path: Path, file_bytes: int, reads: Reads, warm_up_s: float = 0.5
) -> tuple[str, Observed]:
    """The engine that read, and what it observed."""
    storage = PosixStorage(config)
    try:
        arena = BufferArena(reads.block_bytes * reads.depth, _PAGE_BYTES)
        storage.register(arena.view.data)
        at = offsets(reads, file_bytes)

        async def operation(worker: int) -> None:
            first = worker * reads.block_bytes
            into = arena.view[first : first + reads.block_bytes].data
            await storage.read_into(path.name, next(at), into)

        observed = await closed_loop(operation, reads.depth, reads.block_bytes, reads.seconds, warm_up_s)
        return storage.engine, observed
    finally:
        await storage.close()
