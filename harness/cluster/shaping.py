"""Link rates and traffic classes of an emulated NIC, as ``tc`` commands. Pure text, nothing is run here.

A NIC is shaped where a frame enters its link: in the host for what it sends, and on the switch port
for what it receives. HTB (tc-htb(8)) at the link rate; on the compute network one parent at link
rate with two leaves (paper section 5, appendix A.1: about 99:1), both allowed to borrow up to the link rate.
"""

from __future__ import annotations

from harness.cluster.topology import QUEUE_S, HighClass, Nic
from hosts.config import TrafficClass

GSO_MAX_BYTES = 16 * 1024
"""Largest segment handed to a link at once. HTB charges every MTU-sized frame in it with its headers,
so rates stay exact; larger would make the high class wait longer behind a low one, smaller costs CPU."""

HIGH_LEAF, LOW_LEAF = "1:10", "1:20"
"""Class ids of a compute NIC's two leaves."""

_MIN_BURST_BYTES = 16 * 1024
_BURST_S = 0.001
_MIN_QUEUE_BYTES = 8 * GSO_MAX_BYTES
_LOSSLESS_QUEUE_BYTES = 64 * 1024 * 1024
"""A network for RDMA pauses senders instead of losing packets (IEEE 802.1Qbb), and Soft-RoCE repeats what is
lost only after a timeout. Here the queue takes all that can be under way: of each queue pair that sends to or
from the NIC 16 reads, each of a Layer Block at most, or 128 packets of writes."""


def shaping_commands(device: str, nic: Nic, high_class: HighClass) -> list[str]:
    """``tc`` batch lines giving ``device``, one end of ``nic``'s link, the NIC's rate; none if unshaped."""
    if nic.bytes_per_s is None:
        return []
    rate = nic.bytes_per_s
    if nic.network != "compute":
        return [
            f"qdisc add dev {device} root handle 1: htb default 10",
            *_class(device, "1:", "1:10", rate, rate, queue_bytes=_queue_bytes(nic)),
        ]
    low_share, queue_bytes = 1 - high_class.share, _queue_bytes(nic)
    lines = [
        f"qdisc add dev {device} root handle 1: htb default 20",
        *_class(device, "1:", "1:1", rate, rate),
        *_class(device, "1:1", HIGH_LEAF, rate * high_class.share, rate, priority=0, queue_bytes=queue_bytes),
        *_class(device, "1:1", LOW_LEAF, rate * low_share, rate, priority=7, queue_bytes=queue_bytes),
        # The two low bits of the byte are ECN's, not the class's (RFC 3168).
        f"filter add dev {device} parent 1: protocol ip prio 1 u32"
        f" match ip dsfield {high_class.tos:#x} 0xfc flowid {HIGH_LEAF}",
    ]
    if nic.rdma:
        lines.append(
            f"filter add dev {device} parent 1: protocol ipv6 prio 2 u32"
            f" match ip6 priority {high_class.tos:#x} 0xfc flowid {HIGH_LEAF}"
        )
    return lines


def shaped_classes(nic: Nic) -> dict[str, TrafficClass]:
    """The class of traffic of each leaf of ``nic``, by class id; none where it has one class, or no limit."""
    if nic.bytes_per_s is None or nic.network != "compute":
        return {}
    return {HIGH_LEAF: "high", LOW_LEAF: "low"}


def _queue_bytes(nic: Nic) -> int:
    """Of a leaf. In bytes, as a switch's buffer is: HTB's default queue holds 1000 segments, seconds of delay
    here."""
    assert nic.bytes_per_s is not None, "shaped"
    return _LOSSLESS_QUEUE_BYTES if nic.rdma else max(_MIN_QUEUE_BYTES, round(nic.bytes_per_s * QUEUE_S))


def _class(
    device: str, parent: str, name: str, rate: float, ceil: float, *, priority: int = 0, queue_bytes: int = 0
) -> list[str]:
    """A class, and its queue if it is a leaf."""
    burst_bytes = max(_MIN_BURST_BYTES, round(ceil * _BURST_S))
    lines = [
        f"class add dev {device} parent {parent} classid {name} htb"
        f" rate {max(1, round(rate))}bps ceil {round(ceil)}bps"
        f" burst {burst_bytes}b cburst {burst_bytes}b quantum {GSO_MAX_BYTES} prio {priority}"
    ]
    if queue_bytes:
        lines.append(f"qdisc add dev {device} parent {name} bfifo limit {queue_bytes}")
    return lines
