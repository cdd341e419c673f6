"""A NIC driver's own statistics, as ``ethtool -S`` shows them.

By the SIOCETHTOOL ioctl and three of its commands (linux/ethtool.h): how many statistics there are, their
names, their values. None of them needs a privilege.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Callable

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSTATS, _GSSET_INFO = 0x1B, 0x1D, 0x37
_SS_STATS = 1
"""ETH_SS_STATS: the set of strings that names statistics."""
_NAME_BYTES = 32
_NO_STATISTICS = (errno.EOPNOTSUPP, errno.ENOTTY)

_SET_INFO = struct.Struct("=IIQI")
"""ethtool_sset_info: command, reserved, mask of sets, number of strings in the one set asked for."""
_STRINGS = struct.Struct("=III")
"""ethtool_gstrings: command, set, number of strings; the strings follow."""
_STATS = struct.Struct("=II")
"""ethtool_stats: command, number of statistics; 64 bits each follow."""

Request = Callable[[bytes], bytes]
"""One ioctl: the command's structure as sent, and as the kernel leaves it."""


def statistics(interface: str) -> dict[str, int]:
    """Value by name; empty for a driver without statistics. Raises OSError if there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            return read_statistics(lambda command: _ioctl(control, interface, command))
        except OSError as error:
            if error.errno in _NO_STATISTICS:
                return {}
            raise OSError(error.errno, f"statistics of {interface}: {error.strerror}") from error


def read_statistics(request: Request) -> dict[str, int]:
    """The three commands in turn."""
    info = request(_SET_INFO.pack(_GSSET_INFO, 0, 1 << _SS_STATS, 0))
    _, _, found, count = _SET_INFO.unpack_from(info)
    if not found or not count:
        return {}
    answer = request(_STRINGS.pack(_GSTRINGS, _SS_STATS, count) + bytes(count * _NAME_BYTES))
    names = struct.iter_unpack(f"{_NAME_BYTES}s", answer[_STRINGS.size :])
    values = request(_STATS.pack(_GSTATS, count) + bytes(count * 8))[_STATS.size :]
    return {
        name.partition(b"\0")[0].decode("ascii", errors="replace"): value
        for (name,), (value,) in zip(names, struct.iter_unpack("=Q", values), strict=True)
    }


def _ioctl(control: socket.socket, interface: str, command: bytes) -> bytes:
    # The kernel writes through the pointer in ifreq, which a bytes argument of ioctl() could not express.
    buffer = ctypes.create_string_buffer(command, len(command))
    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(buffer)))
    return buffer.raw
