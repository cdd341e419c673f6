"""A store in this process's memory: the smallest there is, for tests and as a reference."""

from __future__ import annotations

import asyncio

from hosts.storage.base import Data, StorageError, check_key, check_range, short_read


class MemoryStorage:
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.bytes_written = 0
        self._objects: dict[str, bytes] = {}

    def register(self, buffer: memoryview) -> None:
        """See `Storage.register`; a copy needs no preparation."""

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        check_key(key, "read")
        check_range(key, offset, into)
        await asyncio.sleep(0)
        stored = self._objects.get(key)
        if stored is None:
            raise StorageError(key, "read", "no such object")
        if offset + into.nbytes > len(stored):
            raise short_read(key, offset, into.nbytes, len(stored))
        into.cast("B")[:] = memoryview(stored)[offset : offset + into.nbytes]
        self.bytes_read += into.nbytes

    async def write(self, key: str, data: Data) -> None:
        """See `Storage.write`."""
        check_key(key, "write")
        await asyncio.sleep(0)
        self._objects[key] = bytes(data)
        self.bytes_written += memoryview(data).nbytes

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        check_key(prefix, "delete")
        await asyncio.sleep(0)
        below = prefix + "/"
        for key in [key for key in self._objects if key == prefix or key.startswith(below)]:
            del self._objects[key]

    async def close(self) -> None:
        """See `Storage.close`."""
        self._objects.clear()
