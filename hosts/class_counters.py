"""Bytes of a NIC by class of traffic, where something on the host tells classes apart.

- A real NIC counts by priority, in statistics of its driver's own naming: ``tx_prio0_bytes`` (mlx5),
  ``tx_prio_0_bytes`` (mlx4), ``tx_bytes_pri0`` (bnxt). They are counted at the port, so RDMA is in them.
  Which priority a class has is the port's setting: one that trusts DSCP takes its upper three bits unless
  told otherwise, so that expedited forwarding (46) is priority 5.
- An emulated link is shaped where a frame enters it: in the host for what it sends, whose HTB leaves are the
  classes; in the switch for what it receives, which no host can see. Hence sent bytes only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hosts.config import NicConfig
from hosts.ethtool import statistics
from hosts.protocol import ClassBytes
from hosts.rtnetlink import class_bytes

_PRIORITY = re.compile(r"(?P<way>[rt]x)_(?:prio_?(?P<priority>\d+)_bytes|bytes_pri(?P<bnxt_priority>\d+))")


def classes_of(nic: NicConfig) -> dict[str, ClassBytes]:
    """Bytes by class since the interface came up; empty where nothing counts by class. Raises OSError if the
    kernel does not answer, LookupError if a shaped class is missing."""
    if nic.shaped_classes:
        return shaped_classes(nic, class_bytes(nic.name))
    return priorities(statistics(nic.name))


def grown(before: Mapping[str, ClassBytes], after: Mapping[str, ClassBytes]) -> list[ClassBytes]:
    """What was carried between two readings."""
    return [
        ClassBytes(
            name,
            now.tx_bytes - before[name].tx_bytes,
            None if now.rx_bytes is None else now.rx_bytes - (before[name].rx_bytes or 0),
        )
        for name, now in after.items()
    ]


def shaped_classes(nic: NicConfig, sent: Mapping[str, int]) -> dict[str, ClassBytes]:
    """By class of traffic, from bytes ``sent`` by class id."""
    missing = [class_id for class_id in nic.shaped_classes if class_id not in sent]
    if missing:
        raise LookupError(
            f"{nic.name}: found traffic classes {', '.join(sent) or 'none'}, expected {', '.join(missing)}, "
            f"too; look at 'tc class show dev {nic.name}'"
        )
    return {name: ClassBytes(name, sent[class_id], None) for class_id, name in nic.shaped_classes.items()}


def priorities(counted: Mapping[str, int]) -> dict[str, ClassBytes]:
    """By priority, from a driver's statistics."""
    bytes_of: dict[int, dict[str, int]] = {}
    for name, value in counted.items():
        if found := _PRIORITY.fullmatch(name):
            priority = int(found["priority"] or found["bnxt_priority"])
            bytes_of.setdefault(priority, {})[found["way"]] = value
    return {
        f"priority {priority}": ClassBytes(f"priority {priority}", way.get("tx", 0), way.get("rx"))
        for priority, way in sorted(bytes_of.items())
    }
