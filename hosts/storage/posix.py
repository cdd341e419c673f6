"""A directory as the store: a local disk, or a mount of a parallel or network file system.

Every path is opened part by part below the root's own descriptor, and no symbolic link is followed,
so nothing outside the root can be reached whatever another user of the file system does meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from hosts.config import StorageConfig
from hosts.nixl_agent import NixlError
from hosts.storage.base import Data, StorageError, check_key, check_range, short_read
from hosts.storage.file_reads import (
    DirectReads,
    FileReads,
    ThreadReads,
    UringReads,
    direct_alignment,
    in_thread,
)
from hosts.storage.nixl_reads import NixlReads

_T = TypeVar("_T")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_WRITE_STREAMS = 2
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _SharedFile:
    """An object's file while someone reads it."""

    opening: asyncio.Future[int]
    readers: int = 0


class PosixStorage:
    """Objects as files, read straight into the buffer by io_uring or, where the kernel has none, by threads;
    or by NIXL.

    A system call on a mount that hangs cannot be taken back, so ``timeout_s`` does not bound it.
    """

    def __init__(self, config: StorageConfig) -> None:
        self.bytes_read = 0
        self.bytes_written = 0
        self._direct = config.cache == "direct"
        try:
            self._root = os.open(config.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(config.root, "open", f"{error.strerror}; expected a directory") from error
        threads = config.read_streams + _WRITE_STREAMS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="posix-storage")
        try:
            self.engine, self._reads = self._open_reads(config)
        except StorageError:
            self._threads.shutdown()
            os.close(self._root)
            raise
        self._opened: dict[str, _SharedFile] = {}

    def _open_reads(self, config: StorageConfig) -> tuple[str, FileReads]:
        engine = "threads"
        reads: FileReads = ThreadReads(self._threads)
        if config.engine == "io_uring":
            try:
                engine, reads = "io_uring", UringReads(config.read_streams)
            except OSError as error:
                _log.warning(
                    "reading by threads: this kernel offers no io_uring (%s)", error.strerror or error
                )
        elif config.engine == "nixl":
            try:
                engine, reads = "nixl", NixlReads(config.read_streams, self._threads)
            except NixlError as error:
                raise StorageError(config.root, "open", str(error)) from error
        self._ring = reads if isinstance(reads, UringReads) else None
        return engine, DirectReads(reads, direct_alignment(self._root)) if self._direct else reads

    def register(self, buffer: memoryview) -> None:
        """See `Storage.register`: io_uring pins it once, instead of at every read."""
        if self._ring is not None:
            try:
                self._ring.register(buffer)
            except OSError as error:
                _log.warning(
                    "reads pin their memory each time: %s; raise memlock (ulimit -l)", error.strerror
                )

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        check_key(key, "read")
        check_range(key, offset, into)
        with _as_storage_errors(key, "read"):
            async with self._file(key) as file:
                if await self._reads.read(file, offset, into) < into.nbytes:
                    raise short_read(key, offset, into.nbytes, os.fstat(file).st_size)
        self.bytes_read += into.nbytes

    async def write(self, key: str, data: Data) -> None:
        """See `Storage.write`: to a temporary file, then rename(2). Synchronised where reads bypass the page
        cache."""
        check_key(key, "write")
        view = memoryview(data).cast("B")
        await self._in_thread(key, "write", lambda: self._write(key, view))
        self._opened.pop(key, None)
        self.bytes_written += view.nbytes

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        check_key(prefix, "delete")
        await self._in_thread(prefix, "delete", lambda: self._delete(prefix))
        for key in [key for key in self._opened if key == prefix or key.startswith(f"{prefix}/")]:
            del self._opened[key]

    async def close(self) -> None:
        """See `Storage.close`."""
        if self._root < 0:
            return
        root, self._root = self._root, -1
        await self._reads.close()
        await asyncio.to_thread(self._threads.shutdown)
        os.close(root)

    @asynccontextmanager
    async def _file(self, key: str) -> AsyncIterator[int]:
        """The object's file, opened once for all reads of it that overlap."""
        shared = self._opened.get(key)
        if shared is None:
            opening = asyncio.ensure_future(self._in_thread(key, "read", lambda: self._open(key)))
            shared = self._opened[key] = _SharedFile(opening)
        shared.readers += 1
        try:
            yield await asyncio.shield(shared.opening)
        finally:
            shared.readers -= 1
            if not shared.readers:
                if self._opened.get(key) is shared:
                    del self._opened[key]
                shared.opening.add_done_callback(_close_file)

    async def _in_thread(self, key: str, operation: str, call: Callable[[], _T]) -> _T:
        if self._root < 0:
            raise StorageError(key, operation, "the storage is closed")
        with _as_storage_errors(key, operation):
            return await in_thread(self._threads, call)

    def _open(self, key: str) -> int:
        with self._parent(key) as (parent, name):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DIRECT if self._direct else 0)
            try:
                return os.open(name, flags, dir_fd=parent)
            except OSError as error:
                if self._direct and error.errno == errno.EINVAL:
                    raise StorageError(
                        key,
                        "read",
                        'this file system has no O_DIRECT; expected one that has, or cache = "page"',
                    ) from error
                raise

    def _write(self, key: str, data: memoryview) -> None:
        with self._parent(key, make=True) as (parent, name):
            temporary = f".{secrets.token_hex(8)}"
            file = os.open(temporary, _NEW_FILE, 0o644, dir_fd=parent)
            try:
                try:
                    while data:
                        data = data[os.write(file, data) :]
                    if self._direct:
                        os.fdatasync(file)  # what is read past the page cache has to be on the medium
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


def _close_file(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


@contextmanager
def _as_storage_errors(key: str, operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        refused = error.errno in (errno.ELOOP, errno.ENOTDIR)
        reason = "a symbolic link or a file is in the way" if refused else error.strerror or str(error)
        raise StorageError(key, operation, reason) from error
