"""Objects behind any HTTP server with range GET, PUT and DELETE (RFC 9110, 14.2), through obstore."""

from __future__ import annotations

from datetime import timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import HTTPStore

from hosts.storage.base import StorageError, check_key


class HttpStorage:
    """obstore's Rust client keeps connections alive and does its work off the event loop.

    No retries: a server that fails or falls silent is an error within ``timeout_s``.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.bytes_read = self.bytes_written = 0
        limit = timedelta(seconds=timeout_s)
        self._store = HTTPStore.from_url(
            url,
            client_options={"allow_http": True, "timeout": limit, "connect_timeout": limit},
            retry_config={"max_retries": 0, "retry_timeout": limit},
        )

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        check_key(key, "read")
        try:
            data = await obstore.get_range_async(self._store, key, start=offset, length=len(into))
        except (BaseError, OSError) as error:
            raise StorageError(key, "read", _first_line(error)) from None
        if len(data) != len(into):
            reason = f"{len(data)} bytes came, {len(into)} were asked for at offset {offset}"
            raise StorageError(key, "read", reason)
        into[:] = memoryview(data)
        self.bytes_read += len(into)

    async def write(self, key: str, data: memoryview) -> None:
        """See `Storage.write`."""
        check_key(key, "write")
        try:
            await obstore.put_async(self._store, key, data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise StorageError(key, "write", _first_line(error)) from None
        self.bytes_written += len(data)

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        check_key(prefix, "delete")
        for key in (f"{prefix}/", prefix):
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise StorageError(prefix, "delete", _first_line(error)) from None

    async def close(self) -> None:
        """Connections end with the store."""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
