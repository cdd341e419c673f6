"""A store behind a rate limit: loopback mode, where no NIC is the limit."""

from __future__ import annotations

from hosts.pacing import TokenBucket
from hosts.storage.base import Storage


class PacedStorage:
    """Reads and writes are limited apart, as a full-duplex NIC does."""

    def __init__(self, storage: Storage, bytes_per_s: float) -> None:
        self._storage = storage
        self._reads, self._writes = TokenBucket(bytes_per_s), TokenBucket(bytes_per_s)

    @property
    def bytes_read(self) -> int:
        """See `Storage`."""
        return self._storage.bytes_read

    @property
    def bytes_written(self) -> int:
        """See `Storage`."""
        return self._storage.bytes_written

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        await self._reads.take(len(into))
        await self._storage.read_into(key, offset, into)

    async def write(self, key: str, data: memoryview) -> None:
        """See `Storage.write`."""
        await self._writes.take(len(data))
        await self._storage.write(key, data)

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        await self._storage.delete(prefix)

    async def close(self) -> None:
        """See `Storage.close`."""
        await self._storage.close()
