"""Where the KV cache is kept: immutable objects, read by range straight into the reader's buffer."""

from __future__ import annotations

import re
from typing import Protocol, TypeAlias

Data: TypeAlias = bytes | bytearray | memoryview

_KEY = re.compile(r"[A-Za-z0-9_=@+,~-][A-Za-z0-9._=@+,~-]*(?:/[A-Za-z0-9_=@+,~-][A-Za-z0-9._=@+,~-]*)*")
_MAX_KEY_BYTES = 1024
_MAX_PART_BYTES = 200


class StorageError(Exception):
    """A storage operation did not happen: on which key, which operation, and why."""

    def __init__(self, key: str, operation: str, reason: str) -> None:
        super().__init__(f"{operation} of {key!r}: {reason}")
        self.key = key
        self.operation = operation
        self.reason = reason


class Storage(Protocol):
    """An object store. Each method raises `StorageError`, at the latest after ``timeout_s`` without progress.

    When a method has returned or raised, cancelled ones included, it uses its buffer no more.
    """

    @property
    def bytes_read(self) -> int:
        """Object bytes that have arrived here so far."""
        ...

    @property
    def bytes_written(self) -> int:
        """Object bytes that the store has taken so far."""
        ...

    def register(self, buffer: memoryview) -> None:
        """Most reads will fill parts of ``buffer``, which stays until `close`: prepare for that, once."""
        ...

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """Fill ``into`` from byte ``offset`` of the object; less than that many bytes is an error."""
        ...

    async def write(self, key: str, data: Data) -> None:
        """Store ``data`` as the object ``key``. Readers see the old object or the new one, never a part."""
        ...

    async def delete(self, prefix: str) -> None:
        """Delete the object ``prefix`` and all below ``prefix/``; that there is none is no error."""
        ...

    async def close(self) -> None:
        """Give back every connection and thread."""
        ...


def check_key(key: str, operation: str) -> None:
    """Raise `StorageError` unless ``key`` is a relative path that means the same to every store.

    Parts joined by ``/``, of ASCII letters, digits and ``._=@+,~-``, none starting with a dot: so no
    ``..``, no empty part, nothing that a URL would have to escape, and no store's temporary file.
    """
    if len(key) > _MAX_KEY_BYTES or max(map(len, key.split("/"))) > _MAX_PART_BYTES:
        reason = f"too long, expected at most {_MAX_KEY_BYTES} bytes and {_MAX_PART_BYTES} in a part"
        raise StorageError(key, operation, reason)
    if not _KEY.fullmatch(key):
        reason = "expected parts of A-Z a-z 0-9 . _ = @ + , ~ - joined by '/', none starting with a dot"
        raise StorageError(key, operation, reason)


def check_range(key: str, offset: int, into: memoryview) -> None:
    """Raise `StorageError` for a range or buffer that no object could fill."""
    if offset < 0 or into.nbytes == 0:
        raise StorageError(key, "read", f"{into.nbytes} bytes at offset {offset}: expected >= 1 at >= 0")
    if into.readonly or not into.c_contiguous:
        raise StorageError(key, "read", "the buffer is read-only or not contiguous")


def short_read(key: str, offset: int, wanted_bytes: int, object_bytes: int) -> StorageError:
    """The object ends before the range does."""
    reason = f"bytes {offset}-{offset + wanted_bytes - 1} wanted, the object has {object_bytes} bytes"
    return StorageError(key, "read", reason)
