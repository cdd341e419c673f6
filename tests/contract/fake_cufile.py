"""A libcufile whose functions are C functions as in cufile.h, beside the fake CUDA driver: reads are pread(2)
of the real file into memory that is a GPU's there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda

from hosts.cuda import cufile

_TYPES = {
    "P": ctypes.c_void_p,
    "S": ctypes.c_size_t,
    "I": ctypes.c_int,
    "B": ctypes.c_bool,
    "O": ctypes.c_longlong,  # off_t
}
_STATUS = ctypes.c_ulonglong
"""CUfileError_t, two ints in one register: no callback of ctypes may return it by its own name."""
_FUNCTIONS: dict[str, tuple[Any, str]] = {
    "cuFileGetVersion": (_STATUS, "P"),
    "cuFileSetParameterBool": (_STATUS, "IB"),
    "cuFileDriverOpen": (_STATUS, ""),
    "cuFileDriverClose_v2": (_STATUS, ""),
    "cuFileDriverGetProperties": (_STATUS, "P"),
    "cuFileHandleRegister": (_STATUS, "PP"),
    "cuFileHandleDeregister": (None, "P"),
    "cuFileBufRegister": (_STATUS, "PSI"),
    "cuFileBufDeregister": (_STATUS, "P"),
    "cuFileRead": (ctypes.c_ssize_t, "PPSOO"),
}
_NOT_LOADED, _NO_FILE_SYSTEM, _CUDA, _NOT_REGISTERED, _ALREADY_OPEN = 5001, 5008, 5011, 5024, 5026
_NO_HANDLE, _INTERNAL = 5027, 5030
_ALLOW_COMPATIBILITY, _FORCE_COMPATIBILITY = 1, 2
_PROPERTIES_BYTES, _CONTROL_FLAGS_AT = 56, 28


class FakeCuFile:
    """``nvidia_fs`` is loaded, the file system ``supports`` it, and it ``obeys`` when it may not go round it.

    ``refused`` functions return that CUfileOpError. ``reads_give`` is what cuFileRead gives back instead of
    reading, with ``errno``, from read number ``fails_from`` on; one that ``corrupts`` changes a byte.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.nvidia_fs = self.supports = self.obeys = True
        self.refused: dict[str, int] = {}
        self.missing: set[str] = set()
        self.reads_give: int | None = None
        self.errno = self.fails_from = 0
        self.corrupts = False
        self.calls: list[str] = []
        self.read_directly: list[bool] = []
        self.parameters = {_ALLOW_COMPATIBILITY: True, _FORCE_COMPATIBILITY: False}
        self.opened = 0
        self._files: dict[int, int] = {}
        self._buffers: dict[int, int] = {}
        self._functions: dict[str, Any] = {}

    @property
    def held(self) -> list[str]:
        """What has not been given back."""
        return [*["driver"] * self.opened, *["file"] * len(self._files), *["buffer"] * len(self._buffers)]

    def __getattr__(self, name: str) -> Any:
        if name not in _FUNCTIONS or name in self.missing:
            raise AttributeError(name)
        if name not in self._functions:
            result, arguments = _FUNCTIONS[name]
            kind = ctypes.CFUNCTYPE(result, *[_TYPES[letter] for letter in arguments], use_errno=True)
            self._functions[name] = kind(partial(self._called, name))
        return self._functions[name]

    def _called(self, name: str, *arguments: Any) -> int | None:
        self.calls.append(name)
        if name in self.refused:
            return self.refused[name]
        if not name.startswith(("cuFileGet", "cuFileSet")):
            assert self.cuda.current_here(), f"{name}: no GPU is current"
        result: int | None = getattr(self, f"_{name}")(*[argument or 0 for argument in arguments])
        return result if result is not None or name == "cuFileHandleDeregister" else 0

    @property
    def _direct(self) -> bool:
        return self.nvidia_fs and self.supports and not self.parameters[_FORCE_COMPATIBILITY]

    def _cuFileGetVersion(self, out: int) -> None:
        ctypes.c_int.from_address(out).value = 1140

    def _cuFileSetParameterBool(self, parameter: int, value: bool) -> int:
        if self.opened:
            return _ALREADY_OPEN
        if self.obeys:
            self.parameters[parameter] = bool(value)
        return 0

    def _cuFileDriverOpen(self) -> int:
        if not self.nvidia_fs and not self.parameters[_ALLOW_COMPATIBILITY]:
            return _NOT_LOADED
        self.opened += 1
        return 0

    def _cuFileDriverClose_v2(self) -> None:
        assert (self.opened, self._files, self._buffers) == (1, {}, {})
        self.opened = 0

    def _cuFileDriverGetProperties(self, out: int) -> None:
        ctypes.memset(out, 0, _PROPERTIES_BYTES)
        allowed = self.parameters[_ALLOW_COMPATIBILITY]
        ctypes.c_uint.from_address(out + _CONTROL_FLAGS_AT).value = allowed << _ALLOW_COMPATIBILITY

    def _cuFileHandleRegister(self, out: int, description: int) -> int:
        kind = ctypes.c_int.from_address(description).value
        fd = ctypes.c_int.from_address(description + 8).value
        assert (kind, ctypes.c_void_p.from_address(description + 16).value) == (1, None)
        if not (self._direct or self.parameters[_ALLOW_COMPATIBILITY]):
            return _NO_FILE_SYSTEM
        handle = 0x7000 + 16 * len(self._files)
        self._files[handle] = fd
        ctypes.c_void_p.from_address(out).value = handle
        return 0

    def _cuFileHandleDeregister(self, handle: int) -> None:
        os.fstat(self._files.pop(handle))  # still open

    def _cuFileBufRegister(self, address: int, nbytes: int, flags: int) -> int:
        assert flags == 0
        if not self.cuda.on_device(address, nbytes):
            return _CUDA | 1 << 32
        self._buffers[address] = nbytes
        return 0

    def _cuFileBufDeregister(self, address: int) -> int:
        return 0 if self._buffers.pop(address, None) else _NOT_REGISTERED

    def _cuFileRead(self, handle: int, base: int, nbytes: int, offset: int, at: int) -> int:
        if self.reads_give is not None and self.calls.count("cuFileRead") > self.fails_from:
            ctypes.set_errno(self.errno)
            return self.reads_give
        if handle not in self._files:
            return -_NO_HANDLE
        if at + nbytes > self._buffers.get(base, 0):
            return -_NOT_REGISTERED
        self.read_directly.append(self._direct)
        with open(f"/proc/self/fd/{self._files[handle]}", "rb") as file:  # which need not be aligned
            content = bytearray(os.pread(file.fileno(), nbytes, offset))
        if self.corrupts:
            content[-1] ^= 1
        ctypes.memmove(base + at, bytes(content), len(content))
        return len(content)


@contextmanager
def fake_cufile(cuda: FakeCuda, tmp_path: Path) -> Iterator[FakeCuFile]:
    """In the library's place; all that was taken from it has to be given back. nvidia-fs tells its version in
    ``tmp_path``."""
    fake = FakeCuFile(cuda)
    version = tmp_path / "nvidia-fs-version"
    version.write_text("version: 2.20.5\n")
    with pytest.MonkeyPatch.context() as patch:
        others = ctypes.CDLL
        patch.setattr(ctypes, "CDLL", lambda name, **how: fake if _is_ours(name) else others(name, **how))
        patch.setattr(cufile, "_NVIDIA_FS", version)
        yield fake
    assert fake.held == []


@contextmanager
def no_cufile() -> Iterator[None]:
    """No such library, also where there is one."""

    def missing(name: str, **how: Any) -> Any:
        if _is_ours(name):
            raise OSError(f"{name}: cannot open shared object file")
        return others(name, **how)

    with pytest.MonkeyPatch.context() as patch:
        others = ctypes.CDLL
        patch.setattr(ctypes, "CDLL", missing)
        patch.setattr(cufile, "find_spec", lambda name: None)
        yield


def _is_ours(name: str | None) -> bool:
    return name is not None and Path(name).name == cufile._LIBRARY
