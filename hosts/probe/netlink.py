"""Links, addresses and routes of this network namespace, from the kernel (rtnetlink(7)).

Not from /sys/class/net, which shows the namespace of whoever mounted it, and not from ip(8), which knows
``-json`` since 4.13 only or is not there.
"""

import os
import socket
import struct
from typing import Any, Dict, Iterator, List, Tuple

_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length with the header, type, flags, sequence number, port."""
_LINK = struct.Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, change."""
_ADDRESS = struct.Struct("=BBBBi")
"""ifaddrmsg: family, prefix length, flags, scope, index."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, prefixes of destination and source, TOS, table, protocol, scope, type, flags."""
_NESTED_BIT_MASK = 0x3FFF

_LINK_NAME, _LINK_MTU, _LINK_STATE, _LINK_KIND, _LINK_STATISTICS = 3, 4, 16, 18, 23
_STATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
"""Operational states by number (RFC 2863, linux/if.h)."""
_UP_AND_CARRIER = 0x1 | 0x10000
_ADDRESS_ANY, _ADDRESS_LOCAL = 1, 2
_ROUTE_TO, _ROUTE_FROM, _ROUTE_DEVICE, _ROUTE_GATEWAY, _ROUTE_SOURCE = 1, 2, 4, 5, 7


def links() -> List[Dict[str, Any]]:
    """Every interface: ``name``, ``index``, ``state``, whether it is ``up``, ``mtu``, ``kind`` (of a virtual
    one), ``rx_bytes`` and ``tx_bytes`` so far. Raises OSError."""
    found = []
    for body in _ask(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _DUMP):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        values = dict(_attributes(body[_LINK.size :]))
        state = _STATES[values.get(_LINK_STATE, b"\0")[0]]
        kinds = dict(_attributes(values.get(_LINK_KIND, b"")))
        _, _, received, sent = struct.unpack_from("=QQQQ", values.get(_LINK_STATISTICS, bytes(32)))
        found.append(
            {
                "name": _word(values[_LINK_NAME]),
                "index": index,
                "state": state,
                # A driver that does not tell its state has carrier or not all the same.
                "up": state == "UP" or (state == "UNKNOWN" and flags & _UP_AND_CARRIER == _UP_AND_CARRIER),
                "mtu": struct.unpack("=I", values.get(_LINK_MTU, bytes(4)))[0],
                "kind": _word(kinds.get(1, b"")),
                "rx_bytes": received,
                "tx_bytes": sent,
            }
        )
    return found


def addresses() -> List[Tuple[int, str, int]]:
    """Interface index, address and prefix length of every address. Raises OSError."""
    found = []
    for body in _ask(_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _DUMP):
        family, prefix, _, _, index = _ADDRESS.unpack_from(body)
        values = dict(_attributes(body[_ADDRESS.size :]))
        packed = values.get(_ADDRESS_LOCAL, values.get(_ADDRESS_ANY))  # point-to-point: ANY is the peer
        if packed is not None and family in (socket.AF_INET, socket.AF_INET6):
            found.append((index, socket.inet_ntop(family, packed), prefix))
    return found


def route(destination: str, source: str = "") -> Dict[str, str]:
    """Which way a packet to an address would go: ``device``, ``source``, ``gateway``. Raises OSError where
    there is none."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    attributes = _attribute(_ROUTE_TO, socket.inet_pton(family, destination))
    if source:
        attributes += _attribute(_ROUTE_FROM, socket.inet_pton(family, source))
    bits = 128 if family == socket.AF_INET6 else 32
    request = _ROUTE.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, 0) + attributes
    for body in _ask(_GETROUTE, request, 0):
        values = dict(_attributes(body[_ROUTE.size :]))
        (index,) = struct.unpack("=i", values[_ROUTE_DEVICE])
        preferred, gateway = values.get(_ROUTE_SOURCE), values.get(_ROUTE_GATEWAY)
        return {
            "device": socket.if_indextoname(index),
            "source": source or (socket.inet_ntop(family, preferred) if preferred else ""),
            "gateway": socket.inet_ntop(family, gateway) if gateway else "",
        }
    raise OSError("no answer")


def _ask(kind: int, body: bytes, flags: int) -> Iterator[bytes]:
    """The bodies of the kernel's answers."""
    size = _HEADER.size + len(body)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.send(_HEADER.pack(size, kind, _REQUEST | flags, 1, 0) + body)
        more = True
        while more:
            datagram, at = netlink.recv(256 * 1024), 0
            more = bool(flags & _DUMP)
            while at + _HEADER.size <= len(datagram):
                size, answer, _, _, _ = _HEADER.unpack_from(datagram, at)
                body = datagram[at + _HEADER.size : at + size]
                at += max(_aligned(size), _HEADER.size)
                if answer == _DONE:
                    more = False
                elif answer == _ERROR:
                    (status,) = struct.unpack_from("=i", body)
                    raise OSError(-status, os.strerror(-status))
                else:
                    yield body


def _attributes(data: bytes) -> Iterator[Tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        yield kind & _NESTED_BIT_MASK, data[at + 4 : at + size]
        at += max(_aligned(size), 4)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust(_aligned(len(value)), b"\0")


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _word(value: bytes) -> str:
    return value.split(b"\0")[0].decode("utf-8", "replace")
