"""What a KV store has to offer: objects of bytes under keys, read in ranges, written whole."""

from __future__ import annotations

from typing import Protocol


class StorageError(Exception):
    """An operation on the store failed: on which key, which operation, and why."""

    def __init__(self, key: str, operation: str, reason: str) -> None:
        super().__init__(f"storage {operation} of '{key}': {reason}")
        self.key = key
        self.operation = operation
        self.reason = reason


class Storage(Protocol):
    """``bytes_read`` and ``bytes_written`` count payload where it really arrived, since opening."""

    bytes_read: int
    bytes_written: int

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """Fill ``into`` from byte ``offset`` of an object; raises StorageError, also on a short read."""
        ...

    async def write(self, key: str, data: memoryview) -> None:
        """Store a whole object, replacing one of that key."""
        ...

    async def delete(self, prefix: str) -> None:
        """Remove the object ``prefix`` or everything below it; nothing there is no error."""
        ...

    async def close(self) -> None:
        """Free connections and threads."""
        ...


def check_key(key: str, operation: str) -> str:
    """A relative path without empty, ``.`` or ``..`` parts, or StorageError."""
    if not key or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise StorageError(key, operation, "expected a relative path without empty, '.' or '..' parts")
    return key
