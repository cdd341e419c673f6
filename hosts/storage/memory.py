"""Objects in this process's memory: the smallest real store, for tests and self-checks."""

from __future__ import annotations

from hosts.storage.base import StorageError, check_key


class MemoryStorage:
    """Visible to its own process only."""

    def __init__(self) -> None:
        self.bytes_read = self.bytes_written = 0
        self._objects: dict[str, bytes] = {}

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        stored = self._objects.get(check_key(key, "read"))
        if stored is None:
            raise StorageError(key, "read", "no such object")
        if offset < 0 or offset + len(into) > len(stored):
            reason = f"bytes {offset} to {offset + len(into)} asked of an object of {len(stored)}"
            raise StorageError(key, "read", reason)
        into[:] = stored[offset : offset + len(into)]
        self.bytes_read += len(into)

    async def write(self, key: str, data: memoryview) -> None:
        """See `Storage.write`."""
        self._objects[check_key(key, "write")] = bytes(data)
        self.bytes_written += len(data)

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        check_key(prefix, "delete")
        below = [key for key in self._objects if key == prefix or key.startswith(f"{prefix}/")]
        for key in below:
            del self._objects[key]

    async def close(self) -> None:
        """Forget everything."""
        self._objects.clear()
