"""A directory as the store: a local disk, or a mount of a parallel or network file system.

Every path is opened part by part below the root's own descriptor, and no symbolic link is followed,
so nothing outside the root can be reached whatever another user of the file system does meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from hosts.config import StorageConfig
from hosts.storage.base import Data, StorageError, check_key, check_range, short_read

_T = TypeVar("_T")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_WRITE_STREAMS = 2


class PosixStorage:
    """Objects as files; reads by preadv(2) in threads, straight into the buffer, through the page cache.

    A system call on a mount that hangs cannot be taken back, so ``timeout_s`` does not bound it.
    """

    def __init__(self, config: StorageConfig) -> None:
        self.bytes_read = 0
        self.bytes_written = 0
        try:
            self._root = os.open(config.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(config.root, "open", f"{error.strerror}; expected a directory") from error
        threads = config.read_streams + _WRITE_STREAMS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="posix-storage")

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        check_key(key, "read")
        check_range(key, offset, into)
        await self._in_thread(key, "read", lambda: self._read(key, offset, into))
        self.bytes_read += into.nbytes

    async def write(self, key: str, data: Data) -> None:
        """See `Storage.write`: to a temporary file, then rename(2). Not synchronised to the medium."""
        check_key(key, "write")
        view = memoryview(data).cast("B")
        await self._in_thread(key, "write", lambda: self._write(key, view))
        self.bytes_written += view.nbytes

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        check_key(prefix, "delete")
        await self._in_thread(prefix, "delete", lambda: self._delete(prefix))

    async def close(self) -> None:
        """See `Storage.close`."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    async def _in_thread(self, key: str, operation: str, call: Callable[[], _T]) -> _T:
        if self._root < 0:
            raise StorageError(key, operation, "the storage is closed")
        work = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A system call cannot be taken back; the buffer is the caller's again when it is over.
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # looked at here, since nobody else will
            raise
        except OSError as error:
            refused = error.errno in (errno.ELOOP, errno.ENOTDIR)
            reason = "a symbolic link or a file is in the way" if refused else error.strerror or str(error)
            raise StorageError(key, operation, reason) from error

    def _read(self, key: str, offset: int, into: memoryview) -> None:
        with self._parent(key) as (parent, name):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                done = 0
                while done < into.nbytes:
                    read = os.preadv(file, [into.cast("B")[done:]], offset + done)
                    if not read:
                        raise short_read(key, offset, into.nbytes, os.fstat(file).st_size)
                    done += read
            finally:
                os.close(file)

    def _write(self, key: str, data: memoryview) -> None:
        with self._parent(key, make=True) as (parent, name):
            temporary = f".{secrets.token_hex(8)}"
            file = os.open(temporary, _NEW_FILE, 0o644, dir_fd=parent)
            try:
                try:
                    while data:
                        data = data[os.write(file, data) :]
                finally:
                    os.close(file)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                os.unlink(temporary, dir_fd=parent)
                raise

    def _delete(self, prefix: str) -> None:
        try:
            with self._parent(prefix) as (parent, name):
                if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return

    @contextmanager
    def _parent(self, key: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory that holds ``key``'s file, open, and the file's name in it."""
        *directories, name = key.split("/")
        here = os.dup(self._root)
        try:
            for directory in directories:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(directory, dir_fd=here)
                below = os.open(directory, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            yield here, name
        finally:
            os.close(here)
