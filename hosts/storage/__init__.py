"""Back-ends that hold the KV store: http (any server with range GET and PUT), posix, memory."""

from __future__ import annotations

from hosts.config import StorageConfig
from hosts.storage.base import Storage, StorageError

__all__ = ["Storage", "StorageError", "open_storage"]


async def open_storage(config: StorageConfig) -> Storage:
    """The back-end that ``config.kind`` names, paced if it says so; raises `StorageError`."""
    storage: Storage
    match config.kind:
        case "http":
            from hosts.storage.http import HttpStorage

            storage = HttpStorage(config.url, config.timeout_s)
        case "posix":
            from hosts.storage.posix import PosixStorage

            storage = PosixStorage(config.root)
        case "memory":
            from hosts.storage.memory import MemoryStorage

            storage = MemoryStorage()
    if config.pace_bytes_per_s > 0:
        from hosts.storage.paced import PacedStorage

        storage = PacedStorage(storage, config.pace_bytes_per_s)
    return storage
