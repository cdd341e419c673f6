"""A driver library whose GPUs are memory of this process, and whose functions are C functions as in cuda.h.

What is asynchronous on a GPU is done as late as the CUDA Driver API allows, so a wait that is missing shows;
time is a clock that only copies advance.
"""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from threading import get_ident
from typing import Any

import numpy as np
import pytest

from hosts.cuda import copies

LIBRARY = "libcuda.so.1"
BYTES_PER_S = 25e9
COPY_S, BATCHED_S, PITCHED_S = 5e-6, 0.5e-6, 0.1e-6
"""What a copy costs beside its bytes; what another row of a batch does, and of a two-dimensional copy."""

_TYPES = {
    "P": ctypes.c_void_p,
    "D": ctypes.c_ulonglong,  # CUdeviceptr_v2
    "L": ctypes.c_ulonglong,  # cuuint64_t
    "S": ctypes.c_size_t,
    "I": ctypes.c_int,
    "U": ctypes.c_uint,
    "B": ctypes.c_ubyte,
    "C": ctypes.c_char_p,
}
_ARGUMENTS = {
    "cuInit": "U",
    "cuDriverGetVersion": "P",
    "cuGetErrorString": "IP",
    "cuGetProcAddress_v2": "CPILP",
    "cuDeviceGetCount": "P",
    "cuDeviceGet": "PI",
    "cuDeviceGetName": "PII",
    "cuDeviceGetAttribute": "PII",
    "cuDevicePrimaryCtxRetain": "PI",
    "cuDevicePrimaryCtxRelease_v2": "I",
    "cuCtxPushCurrent_v2": "P",
    "cuCtxPopCurrent_v2": "P",
    "cuCtxSynchronize": "",
    "cuMemAlloc_v2": "PS",
    "cuMemFree_v2": "D",
    "cuMemGetHandleForAddressRange": "PDSIL",
    "cuFlushGPUDirectRDMAWrites": "II",
    "cuMemHostRegister_v2": "PSU",
    "cuMemHostUnregister": "P",
    "cuMemsetD8_v2": "DBS",
    "cuMemcpyHtoD_v2": "DPS",
    "cuMemcpyDtoH_v2": "PDS",
    "cuMemcpyHtoDAsync_v2": "DPSP",
    "cuMemcpyDtoHAsync_v2": "PDSP",
    "cuMemcpy2DAsync_v2": "PP",
    "cuMemcpyBatchAsync": "PPPSPPSPP",  # by cuGetProcAddress only
    "cuStreamCreate": "PU",
    "cuStreamSynchronize": "P",
    "cuStreamDestroy_v2": "P",
    "cuEventCreate": "PU",
    "cuEventRecord": "PP",
    "cuEventSynchronize": "P",
    "cuEventElapsedTime": "PPP",
    "cuEventDestroy_v2": "P",
}
_BEFORE_INIT = {"cuInit", "cuDriverGetVersion", "cuGetErrorString", "cuGetProcAddress_v2"}
_CONTEXT, _FIRST_HANDLE = 0xC0DE, 0x1000
_INVALID_VALUE, _NOT_INITIALIZED, _INVALID_CONTEXT, _INVALID_HANDLE, _NOT_READY = 1, 3, 201, 400, 600
_WORDS = {1: b"invalid argument", 2: b"out of memory", 100: b"no CUDA-capable device is detected"}
_MEMCPY2D = np.dtype(
    {
        "names": ["sx", "sy", "st", "sh", "sd", "sp", "dx", "dy", "dt", "dh", "dd", "dp", "width", "height"],
        "offsets": [0, 8, 16, 24, 32, 48, 56, 64, 72, 80, 88, 104, 112, 120],
        "formats": ["u8", "u8", "u4", *["u8"] * 5, "u4", *["u8"] * 5],
        "itemsize": 128,
    }
)
_ATTRIBUTES = np.dtype([("order", "u4"), ("hints", "u4", 4), ("flags", "u4")])


class FakeCuda:
    """``refused`` functions return that CUresult and do nothing, and so does call number ``refused_call``.

    ``held`` is what has not been given back, ``faults`` what a real driver would not have said: memory freed
    under a copy. A copy of the way that ``corrupts`` names changes a bit.
    """

    def __init__(self, version: int = 12080, gpus: int = 1) -> None:
        self.version, self.gpus, self.dma_buf_supported = version, gpus, 1
        self.writes_ordering = 100  # a GPU sees what NICs write to it
        self.refused: dict[str, int] = {}
        self.refused_call = -1
        self.missing: set[str] = set()
        self.calls: list[str] = []
        self.faults: list[str] = []
        self.corrupts = ""
        self.clock_s = 0.0
        self._contexts: defaultdict[int, list[int]] = defaultdict(list)
        self._initialized = False
        self._retained = 0
        self._device: dict[int, np.ndarray] = {}
        self._pinned: dict[int, int] = {}
        self._work: defaultdict[int, list[Callable[[], None]]] = defaultdict(list)
        self._streams: set[int] = set()
        self._events: dict[int, tuple[int | None, float | None]] = {}
        self._handles = iter(range(_FIRST_HANDLE, 1 << 40, 16))
        self._functions: dict[str, Any] = {}

    @property
    def held(self) -> list[str]:
        return [
            *["context"] * self._retained,
            *[f"{memory.nbytes} bytes" for memory in self._device.values()],
            *[f"{nbytes} bytes pinned" for nbytes in self._pinned.values()],
            *["stream"] * len(self._streams),
            *["event"] * len(self._events),
        ]

    @property
    def contexts(self) -> list[int]:
        """Current in any thread."""
        return [context for of_thread in self._contexts.values() for context in of_thread]

    def current_here(self) -> bool:
        """Whether a context is, in this thread."""
        return bool(self._contexts[get_ident()])

    def on_device(self, address: int, nbytes: int) -> bool:
        """Whether all of that is memory of a GPU."""
        return any(
            first <= address and address + nbytes <= first + memory.nbytes
            for first, memory in self._device.items()
        )

    def __getattr__(self, name: str) -> Any:
        if name not in _ARGUMENTS or name in self.missing or name == "cuMemcpyBatchAsync":
            raise AttributeError(name)
        return self._function(name)

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            kind = ctypes.CFUNCTYPE(ctypes.c_int, *[_TYPES[letter] for letter in _ARGUMENTS[name]])
            self._functions[name] = kind(partial(self._called, name))
        return self._functions[name]

    def _called(self, name: str, *arguments: Any) -> int:
        self.calls.append(name)
        if len(self.calls) - 1 == self.refused_call or name in self.refused:
            if name.endswith("Synchronize"):
                self._work.clear()  # it fails because what it waits for has
            return self.refused.get(name, _INVALID_VALUE)
        if not self._initialized and name not in _BEFORE_INIT:
            return _NOT_INITIALIZED
        of_context = name not in _BEFORE_INIT and not name.startswith(("cuDevice", "cuCtxPush", "cuCtxPop"))
        if of_context and not self.current_here():
            return _INVALID_CONTEXT
        return getattr(self, f"_{name}")(*[argument or 0 for argument in arguments]) or 0

    # The driver, its GPUs and their context

    def _cuInit(self, flags: int) -> int:
        self._initialized = True
        return 0

    def _cuDriverGetVersion(self, out: int) -> None:
        ctypes.c_int.from_address(out).value = self.version

    def _cuGetErrorString(self, code: int, out: int) -> int:
        if code not in _WORDS:
            return _INVALID_VALUE
        ctypes.c_char_p.from_address(out).value = _WORDS[code]
        return 0

    def _cuGetProcAddress_v2(self, symbol: bytes, out: int, version: int, flags: int, status: int) -> int:
        assert (symbol, version) == (b"cuMemcpyBatchAsync", 12080), "or its arguments are others"
        if version > self.version:
            return _INVALID_VALUE
        function = ctypes.cast(self._function("cuMemcpyBatchAsync"), ctypes.c_void_p).value
        ctypes.c_void_p.from_address(out).value = function
        return 0

    def _cuDeviceGetCount(self, out: int) -> None:
        ctypes.c_int.from_address(out).value = self.gpus

    def _cuDeviceGet(self, out: int, ordinal: int) -> None:
        ctypes.c_int.from_address(out).value = 40 + ordinal

    def _cuDeviceGetName(self, out: int, length: int, device: int) -> None:
        ctypes.memmove(out, b"Fake GPU\0", 9)

    def _cuDeviceGetAttribute(self, out: int, attribute: int, device: int) -> None:
        found = {124: self.dma_buf_supported, 118: self.writes_ordering}
        ctypes.c_int.from_address(out).value = found[attribute]

    def _cuFlushGPUDirectRDMAWrites(self, target: int, scope: int) -> None:
        assert (target, scope) == (0, 100)  # this context's GPU, for itself

    def _cuDevicePrimaryCtxRetain(self, out: int, device: int) -> None:
        assert device >= 40
        self._retained += 1
        ctypes.c_void_p.from_address(out).value = _CONTEXT

    def _cuDevicePrimaryCtxRelease_v2(self, device: int) -> None:
        assert device >= 40
        self._retained -= 1

    def _cuCtxPushCurrent_v2(self, context: int) -> None:
        assert context == _CONTEXT
        self._contexts[get_ident()].append(context)

    def _cuCtxPopCurrent_v2(self, out: int) -> None:
        ctypes.c_void_p.from_address(out).value = self._contexts[get_ident()].pop()

    def _cuCtxSynchronize(self) -> None:
        for stream in list(self._work):
            self._do(stream)

    # Memory

    def _cuMemAlloc_v2(self, out: int, nbytes: int) -> None:
        memory = np.full(nbytes, 0xA5, np.uint8)
        self._device[memory.ctypes.data] = memory
        ctypes.c_uint64.from_address(out).value = memory.ctypes.data

    def _cuMemFree_v2(self, address: int) -> None:
        self._idle("GPU memory freed")
        del self._device[address]

    def _cuMemHostRegister_v2(self, address: int, nbytes: int, flags: int) -> None:
        assert flags == 1  # portable
        self._pinned[address] = nbytes

    def _cuMemHostUnregister(self, address: int) -> None:
        self._idle("host memory unregistered")
        del self._pinned[address]

    def _cuMemGetHandleForAddressRange(
        self, out: int, address: int, nbytes: int, kind: int, flags: int
    ) -> None:
        assert (self._device[address].nbytes, kind, flags) == (nbytes, 1, 0)
        assert nbytes % os.sysconf("SC_PAGE_SIZE") == 0
        ctypes.c_int.from_address(out).value = os.memfd_create("dma-buf")

    def _cuMemsetD8_v2(self, address: int, value: int, nbytes: int) -> int:
        if not self.on_device(address, nbytes):
            return _INVALID_VALUE
        self._work[0].append(lambda: ctypes.memset(address, value, nbytes) and None)
        return 0

    def _cuMemcpyHtoD_v2(self, destination: int, source: int, nbytes: int) -> int:
        if not self.on_device(destination, nbytes):
            return _INVALID_VALUE
        self._do(0)
        staged = ctypes.string_at(source, nbytes)
        self._work[0].append(lambda: ctypes.memmove(destination, staged, nbytes) and None)
        return 0

    def _cuMemcpyDtoH_v2(self, destination: int, source: int, nbytes: int) -> int:
        if not self.on_device(source, nbytes):
            return _INVALID_VALUE
        self._do(0)
        ctypes.memmove(destination, source, nbytes)
        return 0

    # Copies

    def _cuMemcpyHtoDAsync_v2(self, destination: int, source: int, nbytes: int, stream: int) -> int:
        if not (self.on_device(destination, nbytes) and self._on_host(source, nbytes)):
            return _INVALID_VALUE
        self._work[stream].append(partial(self._copy, [(destination, source, nbytes)], COPY_S))
        return 0

    def _cuMemcpyDtoHAsync_v2(self, destination: int, source: int, nbytes: int, stream: int) -> int:
        if not (self._on_host(destination, nbytes) and self.on_device(source, nbytes)):
            return _INVALID_VALUE
        self._work[stream].append(partial(self._copy, [(destination, source, nbytes)], COPY_S))
        return 0

    def _cuMemcpy2DAsync_v2(self, copy: int, stream: int) -> int:
        [c] = np.frombuffer(ctypes.string_at(copy, _MEMCPY2D.itemsize), _MEMCPY2D).tolist()
        f = dict(zip(_MEMCPY2D.names or (), c, strict=True))
        source = {1: f["sh"], 2: f["sd"]}[f["st"]] + f["sy"] * f["sp"] + f["sx"]
        destination = {1: f["dh"], 2: f["dd"]}[f["dt"]] + f["dy"] * f["dp"] + f["dx"]
        if f["sp"] < f["width"] + f["sx"] or f["dp"] < f["width"] + f["dx"]:
            return _INVALID_VALUE
        rows = [
            (destination + row * f["dp"], source + row * f["sp"], f["width"]) for row in range(f["height"])
        ]
        where = {1: self._on_host, 2: self.on_device}
        for there, here, width in rows:
            if not (where[f["dt"]](there, width) and where[f["st"]](here, width)):
                return _INVALID_VALUE
        self._work[stream].append(partial(self._copy, rows, COPY_S + len(rows) * PITCHED_S, "pitched"))
        return 0

    def _cuMemcpyBatchAsync(
        self,
        destinations: int,
        sources: int,
        sizes: int,
        count: int,
        attributes: int,
        first: int,
        number: int,
        failed: int,
        stream: int,
    ) -> int:
        ctypes.c_size_t.from_address(failed).value = ctypes.c_size_t(-1).value  # SIZE_MAX: none of them
        if not stream or not count or not 1 <= number <= count:
            return _INVALID_VALUE
        orders = np.frombuffer(ctypes.string_at(attributes, 24 * number), _ATTRIBUTES)["order"]
        firsts = [ctypes.c_size_t.from_address(first + 8 * at).value for at in range(number)]
        if firsts[0] or sorted(set(firsts)) != firsts or firsts[-1] >= count or not set(orders) <= {1, 2, 3}:
            return _INVALID_VALUE
        columns = [
            np.frombuffer(ctypes.string_at(address, 8 * count), np.uint64).tolist()
            for address in (destinations, sources, sizes)
        ]
        rows = list(zip(*columns, strict=True))
        for at, (there, here, width) in enumerate(rows):
            if not (self._known(there, width) and self._known(here, width)):
                ctypes.c_size_t.from_address(failed).value = at
                return _INVALID_VALUE
        rows.reverse()  # within a batch there is no order
        self._work[stream].append(partial(self._copy, rows, COPY_S + count * BATCHED_S, "batch"))
        return 0

    def _copy(self, rows: list[tuple[int, int, int]], overhead_s: float, way: str = "each") -> None:
        for destination, source, nbytes in rows:
            ctypes.memmove(destination, source, nbytes)
        if way == self.corrupts:
            ctypes.c_ubyte.from_address(rows[0][0]).value ^= 1
        self.clock_s += overhead_s + sum(row[2] for row in rows) / BYTES_PER_S

    # Streams and events

    def _cuStreamCreate(self, out: int, flags: int) -> None:
        assert flags == 1  # non-blocking
        handle = next(self._handles)
        self._streams.add(handle)
        ctypes.c_void_p.from_address(out).value = handle

    def _cuStreamSynchronize(self, stream: int) -> int:
        if stream not in self._streams:
            return _INVALID_HANDLE
        self._do(stream)
        return 0

    def _cuStreamDestroy_v2(self, stream: int) -> None:
        self._streams.remove(stream)

    def _cuEventCreate(self, out: int, flags: int) -> None:
        handle = next(self._handles)
        self._events[handle] = (None, None)
        ctypes.c_void_p.from_address(out).value = handle

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self._events[event] = (stream, None)
        self._work[stream].append(partial(self._reach, event))

    def _reach(self, event: int) -> None:
        if event in self._events:  # may be destroyed before a GPU gets there
            self._events[event] = (self._events[event][0], self.clock_s)

    def _cuEventSynchronize(self, event: int) -> None:
        stream, _ = self._events[event]
        if stream is not None:
            self._do(stream)

    def _cuEventElapsedTime(self, out: int, begin: int, end: int) -> int:
        (begin_stream, begin_s), (end_stream, end_s) = self._events[begin], self._events[end]
        if begin_stream is None or end_stream is None:
            return _INVALID_HANDLE
        if begin_s is None or end_s is None:
            return _NOT_READY
        ctypes.c_float.from_address(out).value = (end_s - begin_s) * 1e3
        return 0

    def _cuEventDestroy_v2(self, event: int) -> None:
        del self._events[event]

    def _do(self, stream: int) -> None:
        while self._work[stream]:
            self._work[stream].pop(0)()

    def _idle(self, what: str) -> None:
        if any(self._work.values()):
            self.faults.append(f"{what} under a copy")

    def _on_host(self, address: int, nbytes: int) -> bool:
        return any(
            first <= address and address + nbytes <= first + held for first, held in self._pinned.items()
        )

    def _known(self, address: int, nbytes: int) -> bool:
        return self.on_device(address, nbytes) or self._on_host(address, nbytes)


@contextmanager
def fake_cuda(**host: int) -> Iterator[FakeCuda]:
    """In the library's place, and all that was taken from it has to be given back."""
    fake = FakeCuda(**host)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.MonkeyPatch.context() as patch:
        real = ctypes.CDLL
        patch.setattr(ctypes, "CDLL", lambda name, **how: fake if name == LIBRARY else real(name, **how))
        patch.setattr(copies, "_functions", cache(copies._functions.__wrapped__))
        yield fake
    assert (fake.held, fake.contexts, fake.faults) == ([], [], [])
    assert len(os.listdir("/proc/self/fd")) == descriptors


@contextmanager
def no_cuda() -> Iterator[None]:
    """No driver library, also where there is one."""

    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctypes, "CDLL", missing)
        patch.setattr(copies, "_functions", cache(copies._functions.__wrapped__))
        yield
