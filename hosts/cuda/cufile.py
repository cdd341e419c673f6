"""Reads from files into a GPU's memory by NVIDIA's cuFile (libcufile.so.0): GPUDirect Storage.

Where that does not work, cuFile may read through host memory instead (its compatibility mode) and says so to
nobody: `CuFile` can forbid it. Signatures are cufile.h's of cuFile 1.14 (CUDA 12.9), and 1.20 has the same.
What cuFile itself says about a failure is in cufile.log of the working folder, or where cufile.json has it.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hosts.cuda.driver import CudaError, giving_back
from hosts.cuda.memory import DeviceBuffer

_LIBRARY = "libcufile.so.0"
_NVIDIA_FS = Path("/proc/driver/nvidia-fs/version")
_OPAQUE_FD = 1  # CU_FILE_HANDLE_TYPE_OPAQUE_FD
_ALLOW_COMPATIBILITY, _FORCE_COMPATIBILITY = 1, 2  # CUFileBoolConfigParameter_t
_MAY_GO_ROUND = 1 << 1 | 1 << 2 | 1 << 4  # CUfileDriverControlFlags_t: compatibility, POSIX or fallback mode
_BASE_ERROR, _CUDA_DRIVER_ERROR = 5000, 5011
_WORDS = {
    5001: "nvidia-fs is not loaded",
    5002: "invalid property",
    5004: "nvidia-fs and the library differ in version",
    5005: "nvidia-fs does not tell its version",
    5007: "not on this platform",
    5008: "not on this file's file system",
    5009: "not on this GPU",
    5010: "nvidia-fs refuses",
    5011: "the CUDA driver refuses",
    5012: "no memory of a GPU",
    5013: "wrong type of memory",
    5014: "beyond the allocation",
    5015: "another CUDA context",
    5016: "more than may be pinned",
    5017: "beyond what was registered",
    5018: "no regular file",
    5019: "opened in an unsupported way",
    5020: "not opened with O_DIRECT",
    5022: "invalid argument",
    5023: "registered already",
    5024: "not registered",
    5025: "no permission",
    5027: "the file is not registered",
    5029: "no such GPU",
    5030: "internal error",
    5033: "the library cannot start",
    5034: "disabled in cufile.json",
    5036: "the GPU's memory cannot be pinned",
    5047: "invalid CUDA context",
}
_FIXES = {
    5001: "load it (package nvidia-gds, modprobe nvidia-fs)",
    5004: "install the nvidia-gds that belongs to this CUDA",
    5008: "expected ext4 or xfs on local NVMe, or a parallel file system that supports GPUDirect Storage "
    "(gdscheck -p lists them)",
    5009: "expected a data-centre or professional GPU",
    5016: "fewer or smaller blocks, or a larger max_device_pinned_mem_size_kb in cufile.json",
    5034: "see allow in cufile.json",
    5036: "fewer or smaller blocks: all of them are mapped into the GPU's BAR1 (nvidia-smi -q -d MEMORY)",
}


class CuFileError(CudaError):
    """cuFile refuses, or is not there: what was tried, why, and what to do."""


class _Status(ctypes.Structure):
    """CUfileError_t."""

    _fields_ = [("code", ctypes.c_int), ("cuda_code", ctypes.c_int)]


class _File(ctypes.Union):
    """Of CUfileDescr_t; the pointer is Windows'."""

    _fields_ = [("fd", ctypes.c_int), ("handle", ctypes.c_void_p)]


class _Description(ctypes.Structure):
    """CUfileDescr_t."""

    _fields_ = [("type", ctypes.c_int), ("file", _File), ("file_system", ctypes.c_void_p)]


class _Properties(ctypes.Structure):
    """CUfileDrvProps_t."""

    _fields_ = [
        ("major_version", ctypes.c_uint),
        ("minor_version", ctypes.c_uint),
        ("poll_threshold", ctypes.c_size_t),
        ("max_direct_io", ctypes.c_size_t),
        ("status_flags", ctypes.c_uint),
        ("control_flags", ctypes.c_uint),
        ("features", ctypes.c_uint),
        ("max_device_cache", ctypes.c_uint),
        ("per_buffer_cache", ctypes.c_uint),
        ("max_device_pinned", ctypes.c_uint),
        ("max_batch", ctypes.c_uint),
        ("max_batch_timeout_ms", ctypes.c_uint),
    ]


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cuFileGetVersion": (_Status, (_POINTER,)),
    "cuFileSetParameterBool": (_Status, (ctypes.c_int, ctypes.c_bool)),
    "cuFileDriverOpen": (_Status, ()),
    "cuFileDriverClose_v2": (_Status, ()),
    "cuFileDriverGetProperties": (_Status, (_POINTER,)),
    "cuFileHandleRegister": (_Status, (_POINTER, _POINTER)),
    "cuFileHandleDeregister": (None, (_POINTER,)),
    "cuFileBufRegister": (_Status, (_POINTER, _SIZE, ctypes.c_int)),
    "cuFileBufDeregister": (_Status, (_POINTER,)),
    "cuFileRead": (ctypes.c_ssize_t, (_POINTER, _POINTER, _SIZE, ctypes.c_int64, ctypes.c_int64)),
}


class CuFile:
    """The library, open in this process until `close`; the GPU is current in the calling thread.

    ``direct_only``: it may not go through host memory, and refuses what it cannot do otherwise. ``certain``:
    its properties say so, too; else a read may take either way. ``nvidia_fs`` is the kernel module's version,
    empty where that is not loaded.
    """

    def __init__(self, *, direct_only: bool) -> None:
        self._library: Any = _library()
        for parameter, value in ((_ALLOW_COMPATIBILITY, not direct_only), (_FORCE_COMPATIBILITY, False)):
            self.call("cuFileSetParameterBool", parameter, value)
        self.call("cuFileDriverOpen")
        try:
            properties = _Properties()
            self.call("cuFileDriverGetProperties", ctypes.byref(properties))
            self.certain = direct_only and not properties.control_flags & _MAY_GO_ROUND
            self.nvidia_fs = _nvidia_fs()
            self.version = self._version()
        except CuFileError:
            self.close()
            raise

    def _version(self) -> str:
        number = ctypes.c_int()
        self.call("cuFileGetVersion", ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def call(self, name: str, *arguments: object) -> None:
        """Call ``name``, which returns a CUfileError_t; `CuFileError` unless that is CU_FILE_SUCCESS."""
        status = self.function(name)(*arguments)
        if status.code == _CUDA_DRIVER_ERROR:
            raise CuFileError(f"{name}: {_words(status.code)}: CUDA error {status.cuda_code}")
        if status.code:
            raise CuFileError(f"{name}: {_words(status.code)}")

    def function(self, name: str) -> Any:
        """``name`` itself, with its types."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CuFileError(
                f"this {_LIBRARY} has no {name}; expected that of CUDA 12.9 or newer: install nvidia-gds, or "
                "pip install nvidia-cufile-cu12"
            ) from None
        function.restype, function.argtypes = _SIGNATURES[name]
        return function

    def close(self) -> None:
        """Close it. Files and buffers have been deregistered before."""
        with giving_back():
            self.call("cuFileDriverClose_v2")


class DirectFile:
    """The file ``path``, open past the page cache and registered with ``cufile``, until `close`."""

    def __init__(self, cufile: CuFile, path: Path) -> None:
        self._path = path
        self._deregister = cufile.function("cuFileHandleDeregister")
        self._read = cufile.function("cuFileRead")
        with ExitStack() as resources:
            fd = _open(path)
            resources.callback(os.close, fd)
            handle = ctypes.c_void_p()
            description = _Description(_OPAQUE_FD, _File(fd=fd), None)
            cufile.call("cuFileHandleRegister", ctypes.byref(handle), ctypes.byref(description))
            self._handle = handle.value
            self._resources = resources.pop_all()

    def read(self, buffer: RegisteredBuffer, at: int, offset: int, nbytes: int) -> None:
        """``nbytes`` from byte ``offset`` of the file to byte ``at`` of the buffer; they are there when it
        returns. The GPU is current in the calling thread, which waits. `CuFileError` for less than all."""
        ctypes.set_errno(0)
        read = self._read(self._handle, buffer.address, nbytes, offset, at)
        if read == nbytes:
            return
        if read == -1:
            code = ctypes.get_errno()
            reason = os.strerror(code) if code else "it does not say why"
        elif read < 0:
            reason = _words(-read)
        else:
            reason = f"found {read} bytes, expected all: does the file end there?"
        raise CuFileError(f"cuFileRead of {self._path}, {nbytes} bytes at {offset}: {reason}")

    def close(self) -> None:
        """Deregister and close it. No read is under way any more."""
        self._deregister(self._handle)
        self._resources.close()


class RegisteredBuffer:
    """A GPU's memory that ``cufile`` reads to directly, until `close`."""

    def __init__(self, cufile: CuFile, buffer: DeviceBuffer) -> None:
        self.address, self._cufile = buffer.address, cufile
        cufile.call("cuFileBufRegister", self.address, buffer.nbytes, 0)

    def close(self) -> None:
        """Deregister it. No read is under way any more."""
        with giving_back():
            self._cufile.call("cuFileBufDeregister", self.address)


def _library() -> Any:
    """The host's own or, where it has none, that of NVIDIA's package for Python, which torch brings."""
    try:
        return ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        reason = error
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob(f"*/lib/{_LIBRARY}")):
            return ctypes.CDLL(str(path), use_errno=True)
    raise CuFileError(
        f"no cuFile on this host: found {reason}; expected the library of GPUDirect Storage: install "
        "nvidia-gds, or pip install nvidia-cufile-cu12"
    ) from reason


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise CuFileError(
            f"open of {path} with O_DIRECT: {error.strerror}; expected a file system that has it"
        ) from error


def _nvidia_fs() -> str:
    try:
        return _NVIDIA_FS.read_text().strip().removeprefix("version:").strip()
    except OSError:
        return ""


def _words(code: int) -> str:
    known = f"{_WORDS[code]} [cuFile error {code}]" if code in _WORDS else f"cuFile error {code}"
    return f"{known}; {_FIXES[code]}" if code in _FIXES else known
