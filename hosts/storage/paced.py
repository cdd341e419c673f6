"""A store behind a storage NIC of a given rate, for hosts that have no shaped NIC (loopback mode)."""

from __future__ import annotations

from hosts.pacing import TokenBucket
from hosts.storage.base import Data, Storage


class PacedStorage:
    """``storage`` behind a full-duplex link: ``bytes_per_s`` for reads and as much for writes."""

    def __init__(self, storage: Storage, bytes_per_s: float) -> None:
        self._storage = storage
        self._inbound = TokenBucket(bytes_per_s)
        self._outbound = TokenBucket(bytes_per_s)

    @property
    def bytes_read(self) -> int:
        """See `Storage.bytes_read`."""
        return self._storage.bytes_read

    @property
    def bytes_written(self) -> int:
        """See `Storage.bytes_written`."""
        return self._storage.bytes_written

    def register(self, buffer: memoryview) -> None:
        """See `Storage.register`."""
        self._storage.register(buffer)

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`; done when the bytes would have passed the NIC."""
        await self._inbound.take(into.nbytes)
        await self._storage.read_into(key, offset, into)

    async def write(self, key: str, data: Data) -> None:
        """See `Storage.write`; done when the bytes would have passed the NIC."""
        await self._outbound.take(memoryview(data).nbytes)
        await self._storage.write(key, data)

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        await self._storage.delete(prefix)

    async def close(self) -> None:
        """See `Storage.close`."""
        await self._storage.close()
