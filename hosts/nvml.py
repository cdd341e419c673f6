"""GPUs as NVML knows them, the library of NVIDIA's driver (functions: NVML API Reference Guide).

It is reached by nvidia-ml-py, which is optional, and there may be no driver: a reason in words, no failure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger("dualpath.nvml")
_INSTALL = "pip install nvidia-ml-py"


class NvmlError(Exception):
    """NVML cannot be asked here; says why."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU is; None where it does not tell. ``handle`` is NVML's own."""

    index: int
    uuid: str
    name: str
    memory_bytes: int | None
    max_sm_clock_mhz: int | None
    handle: Any


@dataclass(frozen=True, slots=True)
class Nvml:
    """NVML, open: nvidia-ml-py's module, and the GPUs that this process may ask about."""

    library: Any
    driver: str
    gpus: tuple[Gpu, ...]


@contextmanager
def open_nvml() -> Iterator[Nvml]:
    """Raises NvmlError where there is no NVML. It counts who has it open: it may be opened twice."""
    library = _library()
    try:
        library.nvmlInit()
        nvml = Nvml(library, library.nvmlSystemGetDriverVersion(), tuple(_gpus(library)))
    except library.NVMLError_LibraryNotFound:
        raise NvmlError("no NVIDIA driver (libnvidia-ml.so.1)") from None
    except library.NVMLError as error:
        raise NvmlError(f"the NVIDIA driver does not answer ({error})") from None
    try:
        yield nvml
    finally:
        with suppress(library.NVMLError):  # it may have lost its GPUs since; nothing is left to close then
            library.nvmlShutdown()


def ask(library: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers; None where this GPU, driver or user cannot have it. Raises its NVMLError."""
    try:
        return function(*arguments)
    except (
        library.NVMLError_NotSupported,
        library.NVMLError_FunctionNotFound,  # the driver is older than the function
        library.NVMLError_NoPermission,
    ):
        return None


def _library() -> Any:
    try:
        import pynvml
    except ImportError:
        raise NvmlError(f"no nvidia-ml-py ({_INSTALL})") from None
    if not hasattr(pynvml, "NVML_FI_DEV_PCIE_COUNT_TX_BYTES"):
        raise NvmlError(f"nvidia-ml-py is older than 12.555 ({_INSTALL})")
    return pynvml


def _gpus(library: Any) -> Iterator[Gpu]:
    """Those that are lost, or another job's, are left out."""
    for index in range(library.nvmlDeviceGetCount()):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            memory = ask(library, library.nvmlDeviceGetMemoryInfo, handle)
            yield Gpu(
                index=index,
                uuid=library.nvmlDeviceGetUUID(handle),
                name=library.nvmlDeviceGetName(handle),
                memory_bytes=memory and memory.total,
                max_sm_clock_mhz=ask(
                    library, library.nvmlDeviceGetMaxClockInfo, handle, library.NVML_CLOCK_SM
                ),
                handle=handle,
            )
        except library.NVMLError as error:
            _log.warning("GPU %d is left out: %s", index, error)
