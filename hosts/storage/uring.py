"""io_uring(7): reads that the kernel carries out while the event loop goes on, many a system call.

The rings are shared memory whose layout io_uring_setup(2) tells; numpy views fill and read them, so that a
batch of reads costs one system call and no thread. Completions wake the event loop by an eventfd(2).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
from collections import deque
from dataclasses import dataclass

import numpy as np

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # the same on every architecture
_SUBMISSIONS_AT, _ENTRIES_AT = 0, 0x10000000
_SINGLE_MAP = 1  # IORING_FEAT_SINGLE_MMAP, Linux 5.4
_REGISTER_BUFFERS, _REGISTER_EVENTFD = 0, 4
_READ, _READ_FIXED = 22, 4
_MAX_PART_BYTES = 1 << 30
"""Largest buffer that the kernel registers as one (io_uring_register(2))."""
_SUBMISSION = np.dtype(
    [
        ("opcode", "u1"), ("flags", "u1"), ("ioprio", "<u2"), ("fd", "<i4"), ("offset", "<u8"),
        ("address", "<u8"), ("length", "<u4"), ("rw_flags", "<u4"), ("user_data", "<u8"), ("buffer", "<u2"),
        ("pad", "V22"),
    ]
)  # fmt: skip
_COMPLETION = np.dtype([("user_data", "<u8"), ("result", "<i4"), ("flags", "<u4")])


class _Offsets(ctypes.Structure):
    _fields_ = (
        ("head", ctypes.c_uint32),
        ("tail", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("entries", ctypes.c_uint32),
        ("flags_or_overflow", ctypes.c_uint32),
        ("dropped_or_items", ctypes.c_uint32),
        ("array_or_flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("user_addr", ctypes.c_uint64),
    )


class _Parameters(ctypes.Structure):
    """struct io_uring_params."""

    _fields_ = (
        ("sq_entries", ctypes.c_uint32),
        ("cq_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("sq_thread_cpu", ctypes.c_uint32),
        ("sq_thread_idle", ctypes.c_uint32),
        ("features", ctypes.c_uint32),
        ("wq_fd", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
        ("sq", _Offsets),
        ("cq", _Offsets),
    )


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass(slots=True)
class _Read:
    fd: int
    offset: int
    address: int
    nbytes: int
    done: asyncio.Future[int]


class Ring:
    """``depth`` reads in the kernel at once; more wait here. Raises OSError where the kernel has no
    io_uring."""

    def __init__(self, depth: int) -> None:
        parameters = _Parameters()
        self._fd = _system_call(_SETUP, depth, ctypes.byref(parameters))
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Read] = deque()
        self._reads: dict[int, _Read] = {}
        self._numbers = 0
        self._registered = range(0)
        self._flush_due = False
        try:
            if not parameters.features & _SINGLE_MAP:
                raise OSError(errno.ENOSYS, "io_uring of this kernel is older than Linux 5.4")
            self._map(parameters)
            event = ctypes.c_int(self._event)
            _system_call(_REGISTER, self._fd, _REGISTER_EVENTFD, ctypes.byref(event), 1)
        except BaseException:
            self._close_descriptors()
            raise
        self._loop.add_reader(self._event, self._on_event)

    def _map(self, parameters: _Parameters) -> None:
        sq, cq = parameters.sq, parameters.cq
        rings = mmap.mmap(
            self._fd,
            max(
                sq.array_or_flags + 4 * parameters.sq_entries,
                cq.dropped_or_items + 16 * parameters.cq_entries,
            ),
            flags=mmap.MAP_SHARED | mmap.MAP_POPULATE,
            offset=_SUBMISSIONS_AT,
        )
        entries = mmap.mmap(
            self._fd,
            64 * parameters.sq_entries,
            flags=mmap.MAP_SHARED | mmap.MAP_POPULATE,
            offset=_ENTRIES_AT,
        )

        def word(at: int) -> np.ndarray:
            return np.frombuffer(rings, "<u4", 1, at)

        self._depth, self._mask = parameters.sq_entries, parameters.sq_entries - 1
        self._submission_tail, self._completion_head = word(sq.tail), word(cq.head)
        self._completion_tail, self._completion_mask = word(cq.tail), parameters.cq_entries - 1
        self._submissions = np.frombuffer(entries, _SUBMISSION)
        self._completions = np.frombuffer(rings, _COMPLETION, parameters.cq_entries, cq.dropped_or_items)
        np.frombuffer(rings, "<u4", self._depth, sq.array_or_flags)[:] = np.arange(self._depth)

    def register(self, address: int, nbytes: int) -> None:
        """Pin a buffer, the only one, once: reads into it need not pin it again.

        OSError if the limit of locked memory is too low, or if a buffer is registered already.
        """
        starts = range(0, nbytes, _MAX_PART_BYTES)
        parts = [_Vector(address + first, min(nbytes - first, _MAX_PART_BYTES)) for first in starts]
        vectors = (_Vector * len(parts))(*parts)
        _system_call(_REGISTER, self._fd, _REGISTER_BUFFERS, ctypes.byref(vectors), len(parts))
        self._registered = range(address, address + nbytes)

    def _registered_part(self, address: int, nbytes: int) -> int | None:
        """Which part of the registered buffer holds all of these bytes; None if none does."""
        first = address - self._registered.start
        if first < 0 or address + nbytes > self._registered.stop:
            return None
        part = first // _MAX_PART_BYTES
        return part if (first + nbytes - 1) // _MAX_PART_BYTES == part else None

    async def read(self, fd: int, offset: int, address: int, nbytes: int) -> int:
        """As pread(2), which may be short. After a cancellation, too, the memory is used no more when this
        returns."""
        request = _Read(fd, offset, address, nbytes, self._loop.create_future())
        self._waiting.append(request)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        try:
            return await asyncio.shield(request.done)
        except asyncio.CancelledError:
            if request in self._waiting:
                self._waiting.remove(request)
            elif not request.done.done():
                await asyncio.wait([request.done])
            raise

    async def close(self) -> None:
        """Fail what waits, wait for what the kernel is doing, and give everything back."""
        for request in self._waiting:
            request.done.set_exception(OSError(errno.ECANCELED, "the storage is closed"))
        self._waiting.clear()
        if self._reads:
            await asyncio.wait([request.done for request in self._reads.values()])
        self._loop.remove_reader(self._event)
        self._close_descriptors()

    def _flush(self) -> None:
        """Hand over what waits, as far as there is room: one system call."""
        self._flush_due = False
        tail, count = int(self._submission_tail[0]), 0
        while self._waiting and len(self._reads) < self._depth:
            request = self._waiting.popleft()
            self._numbers += 1
            self._reads[self._numbers] = request
            part = self._registered_part(request.address, request.nbytes)
            self._submissions[(tail + count) & self._mask] = (
                _READ if part is None else _READ_FIXED, 0, 0, request.fd, request.offset, request.address,
                request.nbytes, 0, self._numbers, part or 0, b"",
            )  # fmt: skip
            count += 1
        self._submission_tail[0] = (tail + count) & 0xFFFFFFFF
        submitted = 0
        try:
            while submitted < count:
                submitted += _system_call(_ENTER, self._fd, count - submitted, 0, 0, None, 0)
        except OSError as error:  # the kernel has taken none of the rest, nor will it
            self._submission_tail[0] = (tail + submitted) & 0xFFFFFFFF
            for number in range(self._numbers - count + submitted + 1, self._numbers + 1):
                self._reads.pop(number).done.set_exception(OSError(error.errno, error.strerror))

    def _on_event(self) -> None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return
        head = int(self._completion_head[0])
        while head != int(self._completion_tail[0]):
            completion = self._completions[head & self._completion_mask]
            head = (head + 1) & 0xFFFFFFFF
            request = self._reads.pop(int(completion["user_data"]))
            result = int(completion["result"])
            if request.done.done():
                continue
            if result < 0:
                request.done.set_exception(OSError(-result, os.strerror(-result)))
            else:
                request.done.set_result(result)
        self._completion_head[0] = head
        self._flush()

    def _close_descriptors(self) -> None:
        os.close(self._fd)
        os.close(self._event)


def _system_call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
