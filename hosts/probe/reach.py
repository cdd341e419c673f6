"""Whether other hosts' NICs answer through this host's, with small packets and with the largest.

A datagram goes to a port where nobody listens: the peer's kernel answers that (ICMP, port unreachable), with
no privilege, no program there, and no payload worth a word.
"""

import errno
import os
import select
import socket
import time
from typing import Any, Dict, List

from hosts.probe.netlink import route
from hosts.probe.reading import Facts, reason

_PORT = 33435
"""Where traceroute(8) sends its datagrams, too."""
_WAIT_S = 4.0
"""Address resolution gives up after three tries, a second each. Who was there a moment ago and is gone is
silent instead."""
_OPTIONS = {socket.AF_INET: (socket.IPPROTO_IP, 10, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 25)}
"""IP_MTU_DISCOVER and IP_RECVERR (linux/in.h, in6.h) by family."""
_DO_NOT_FRAGMENT = 3  # IP_PMTUDISC_PROBE: and do not look at what is known of the path either
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}


def reach(nic: str, source: str, mtu: int, peers: Dict[str, str]) -> Facts:
    """From the address ``source`` of ``nic`` to each peer (address by name): the kernel's route, and what
    came back."""
    results: List[Facts] = []
    waiting: Dict[int, Any] = {}
    poll = select.poll()
    for peer, address in peers.items():
        result: Facts = {"peer": peer, "address": address, "small": "no answer", "full": "no answer"}
        results.append(result)
        try:
            result["route"] = dict(route(address, source))
        except OSError as error:
            result["route"] = {"error": reason(error)}
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for size, nbytes in (("small", 8), ("full", mtu - _HEADERS[family])):
            try:
                probe = _send(family, source, address, nbytes)
            except OSError as error:
                result[size] = reason(error)
            else:
                waiting[probe.fileno()] = (probe, result, size)
                poll.register(probe, select.POLLERR)
    _receive(poll, waiting)
    return {"nic": nic, "source": source, "full_bytes": mtu, "peers": results}


def _send(family: int, source: str, address: str, nbytes: int) -> socket.socket:
    level, discover, errors = _OPTIONS[socket.AddressFamily(family)]
    probe = socket.socket(family, socket.SOCK_DGRAM)
    try:
        probe.setsockopt(level, discover, _DO_NOT_FRAGMENT)
        probe.setsockopt(level, errors, 1)
        probe.bind((source, 0))
        probe.connect((address, _PORT))
        probe.send(bytes(nbytes))
    except OSError:
        probe.close()
        raise
    return probe


def _receive(poll: Any, waiting: Dict[int, Any]) -> None:
    until_at = time.monotonic() + _WAIT_S
    while waiting and time.monotonic() < until_at:
        for descriptor, _ in poll.poll(max(0.0, until_at - time.monotonic()) * 1e3):
            probe, result, size = waiting.pop(descriptor)
            poll.unregister(descriptor)
            number = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            result[size] = "" if number == errno.ECONNREFUSED else os.strerror(number)
            probe.close()
    for probe, _, _ in waiting.values():
        probe.close()
