"""Memory of hosts' buffers: mapped once, at page boundaries, on the kind of pages that was asked for."""

from __future__ import annotations

import errno
import logging
import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hosts.config import PageKind

HUGE_PAGE_BYTES = 2 * 1024 * 1024
_MAP_HUGETLB = 0x40000  # <linux/mman.h>; the mmap module has no name for it
_RESERVED = Path("/proc/sys/vm/nr_hugepages")
_log = logging.getLogger(__name__)


class MemoryUnavailableError(Exception):
    """The buffer cannot be had on such pages; says what there is and how to get more."""


def mapped(nbytes: int, pages: PageKind) -> NDArray[np.uint8]:
    """At least ``nbytes`` of zeros whose pages are all there already, the first at a page boundary.

    Transparent huge pages are a request (madvise(2), MADV_HUGEPAGE): the kernel may not have any. Those of
    the reserved pool (mmap(2), MAP_HUGETLB) are there, or `MemoryUnavailableError` is raised.
    """
    match pages:
        case "base":
            memory = _view(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        case "transparent":
            memory = _transparent(_rounded(nbytes))
        case "hugetlb":
            memory = _reserved(_rounded(nbytes))
    memory.fill(0)  # maps every page now, not inside a measurement
    return memory


def _transparent(nbytes: int) -> NDArray[np.uint8]:
    mapping = mmap.mmap(-1, nbytes + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except OSError as error:
        _log.warning("buffers on base pages: this kernel makes no huge ones (%s)", error.strerror)
    memory = _view(mapping)
    first = -memory.ctypes.data % HUGE_PAGE_BYTES
    return memory[first : first + nbytes]


def _reserved(nbytes: int) -> NDArray[np.uint8]:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB
    try:
        return _view(mmap.mmap(-1, nbytes, flags=flags))
    except OSError as error:
        if error.errno not in (errno.ENOMEM, errno.EINVAL):
            raise
        found = _RESERVED.read_text().strip() if _RESERVED.exists() else "no"
        raise MemoryUnavailableError(
            f"{nbytes // HUGE_PAGE_BYTES} huge pages of 2 MiB wanted for a buffer of {nbytes} bytes, "
            f"{os.strerror(error.errno)}: found {found} reserved ({_RESERVED}); reserve more with 'sysctl "
            'vm.nr_hugepages=N\', or use buffer_pages = "transparent"'
        ) from error


def _view(mapping: mmap.mmap) -> NDArray[np.uint8]:
    return np.frombuffer(mapping, np.uint8)  # and the owner of the mapping from here on


def _rounded(nbytes: int) -> int:
    return -(-nbytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
