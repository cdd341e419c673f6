"""Objects as files below one directory: a local disk or any mounted file system (3FS, Lustre, NFS).

Reads go through the page cache. Nothing outside the root is reachable: keys have no ``..`` and no
directory or file on the way may be a symbolic link.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hosts.storage.base import StorageError, check_key

_THREADS = 8


class PosixStorage:
    """preadv(2) on a few threads, straight into the caller's buffer; writes are whole or not at all."""

    def __init__(self, root: str) -> None:
        self.bytes_read = self.bytes_written = 0
        self._root = Path(root)
        if not self._root.is_dir():
            raise StorageError(root, "open", "no such directory; expected the store's root")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="posix-storage")

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        await self._run("read", key, self._read, self._path(key, "read"), offset, into)
        self.bytes_read += len(into)

    async def write(self, key: str, data: memoryview) -> None:
        """See `Storage.write`."""
        await self._run("write", key, self._write, self._path(key, "write"), data)
        self.bytes_written += len(data)

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        await self._run("delete", prefix, self._delete, self._path(prefix, "delete"))

    async def close(self) -> None:
        """Wait for reads and writes under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _path(self, key: str, operation: str) -> Path:
        path = self._root
        for part in check_key(key, operation).split("/"):
            path /= part
            if path.is_symlink():
                raise StorageError(key, operation, f"{path} is a symbolic link; expected none below the root")
        return path

    async def _run(self, operation: str, key: str, function, *arguments: object) -> None:  # type: ignore[no-untyped-def]
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, function, *arguments)
        except OSError as error:
            raise StorageError(key, operation, error.strerror or str(error)) from None

    @staticmethod
    def _read(path: Path, offset: int, into: memoryview) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            done = 0
            while done < len(into):
                count = os.preadv(descriptor, [into[done:]], offset + done)
                if count == 0:
                    found = os.fstat(descriptor).st_size
                    raise OSError(0, f"bytes {offset} to {offset + len(into)} asked of an object of {found}")
                done += count
        finally:
            os.close(descriptor)

    @staticmethod
    def _write(path: Path, data: memoryview) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".incomplete-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    @staticmethod
    def _delete(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
