"""Bytes of traffic control's classes, read from the kernel without a process a reading.

One dump of RTM_GETTCLASS over a netlink socket, as ``tc -s class show dev X`` sends it (rtnetlink(7),
linux/pkt_sched.h, linux/gen_stats.h). A class's bytes are those of the frames that it passed on, headers
included, also of the frames that a large segment would be cut into.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWTCLASS, _RTM_GETTCLASS = 40, 42
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_TCA_STATS2, _TCA_STATS_BASIC = 7, 1
_NESTED_BIT_MASK = 0x3FFF
"""Upper two bits of an attribute's type are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER)."""

_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length with the header, type, flags, sequence number, port."""
_TCMSG = struct.Struct("=BxxxiIII")
"""tcmsg: family, interface index, handle, parent, info."""
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 64 * 1024


def class_bytes(interface: str) -> dict[str, int]:
    """Bytes that each class of ``interface`` has sent, by class id such as ``1:10``. Raises OSError if this
    network namespace has no such interface, or the kernel refuses."""
    index = socket.if_nametoindex(interface)
    request = _TCMSG.pack(socket.AF_UNSPEC, index, 0, 0, 0)
    size = _HEADER.size + len(request)
    header = _HEADER.pack(size, _RTM_GETTCLASS, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    sent: dict[str, int] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(header + request)
        while parse_classes(netlink.recv(_RECEIVE_BYTES), sent):
            pass
    return sent


def parse_classes(datagram: bytes, sent: dict[str, int]) -> bool:
    """Add the classes of one datagram of the dump to ``sent``; whether more follow. Raises OSError for an
    error that the kernel answers with."""
    at = 0
    while at < len(datagram):
        size, kind, _, _, _ = _HEADER.unpack_from(datagram, at)
        message = datagram[at + _HEADER.size : at + size]
        at += max(_aligned(size), _HEADER.size)
        if kind == _NLMSG_DONE:
            return False
        if kind == _NLMSG_ERROR:
            (status,) = struct.unpack_from("=i", message)
            raise OSError(-status, f"traffic classes: {os.strerror(-status)}")
        if kind == _RTM_NEWTCLASS:
            _, _, handle, _, _ = _TCMSG.unpack_from(message)
            sent[f"{handle >> 16:x}:{handle & 0xFFFF:x}"] = _basic_bytes(message[_TCMSG.size :])
    return True


def _basic_bytes(attributes: bytes) -> int:
    """``bytes`` of the class's gnet_stats_basic."""
    for kind, value in _attributes(attributes):
        if kind == _TCA_STATS2:
            for inner_kind, inner in _attributes(value):
                if inner_kind == _TCA_STATS_BASIC:
                    (nbytes,) = struct.unpack_from("=Q", inner)
                    return int(nbytes)
    raise OSError(errno.EPROTO, "a traffic class without statistics")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _NESTED_BIT_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += max(_aligned(size), _ATTRIBUTE.size)


def _aligned(size: int) -> int:
    """Messages and attributes begin at multiples of four bytes (netlink(7)); none is shorter than its header,
    so that a size of 0 must not keep a reader in place."""
    return (size + 3) & ~3
