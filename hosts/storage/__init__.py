"""Stores of the KV cache, and the queue through which a host reads from one."""

from __future__ import annotations

from hosts.config import StorageConfig
from hosts.storage.base import Storage, StorageError
from hosts.storage.paced import PacedStorage
from hosts.storage.reader import ReadQueue

__all__ = ["PacedStorage", "ReadQueue", "Storage", "StorageError", "open_storage"]


async def open_storage(config: StorageConfig) -> Storage:
    """The store that ``config.kind`` names, paced if the configuration says so; raises `StorageError`."""
    storage = _open(config)
    return PacedStorage(storage, config.pace_bytes_per_s) if config.pace_bytes_per_s else storage


def _open(config: StorageConfig) -> Storage:
    match config.kind:
        case "http":
            from hosts.storage.http import HttpStorage

            return HttpStorage(config)
        case "posix":
            from hosts.storage.posix import PosixStorage

            return PosixStorage(config)
        case "memory":
            from hosts.storage.memory import MemoryStorage

            return MemoryStorage()
