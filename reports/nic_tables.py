"""Tables of what NICs counted beside their bytes: traffic by class, and errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from reports.stored_run import StoredRun, of_repetitions
from reports.table import Table
from reports.units import percent, size

_NAMED = ("high", "low")
"""Classes of the testbed, in the paper's order; others are priorities as the device numbers them."""


def class_table(run: StoredRun, policies: Iterable[str]) -> Table:
    """A row a policy and compute NIC, a column a class; priorities that carried nothing are left out."""
    counted = run.class_bytes[run.class_bytes["network"] == "compute"]
    sent, received = _sums(counted, "tx_bytes"), _sums(counted, "rx_bytes")
    classes = [name for name in sent if name in _NAMED or sent[name] or received.get(name)]
    classes.sort(key=lambda name: (name not in _NAMED, name))
    receiving = [name for name in classes if name in received]
    rows = [
        [policy, str(host), str(nic), *_cells(of_nic, classes, receiving)]
        for policy in policies
        for (host, nic), of_nic in of_repetitions(counted, policy, run.complete(policy)).groupby(
            ["host", "nic"], sort=False
        )
    ]
    columns = ["policy", "host", "compute NIC"]
    columns += [f"sent, {name}" for name in classes] + [f"received, {name}" for name in receiving]
    note = "Shares are of what the host sent, headers included."
    if not receiving:
        note += " What it receives is classed in the switch, where no host counts it."
    return Table("Bytes by traffic class", columns, rows, note, labels=3)


def error_table(run: StoredRun) -> Table:
    """A row a counter that grew in a repetition."""
    grown = run.error_counts[run.error_counts["count"] > 0]
    rows = [
        [
            str(row["repetition"]),
            row["policy"],
            row["host"],
            _nic(row["nic"], row["rdma_port"]),
            row["counter"],
            f"{row['count']:,}",
        ]
        for row in grown.to_dict("records")
    ]
    columns = ["repetition", "policy", "host", "NIC", "counter", "growth"]
    return Table("Error counters that grew", columns, rows, labels=5)


def link_errors(run: StoredRun) -> list[str]:
    """A line a NIC whose error counters grew, over all repetitions."""
    grown = run.error_counts[run.error_counts["count"] > 0]
    lines = []
    for (host, nic, port), of_nic in grown.groupby(["host", "nic", "rdma_port"], sort=False):
        counts = of_nic.groupby("counter", sort=False)["count"].sum()
        text = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        lines.append(f"errors on {host} {_nic(str(nic), str(port))}: {text}")
    return lines


def _sums(table: pd.DataFrame, column: str) -> dict[str, int]:
    """By class; one that nothing counted is left out."""
    sums = table.dropna(subset=[column]).groupby("traffic_class")[column].sum()
    return {str(name): int(total) for name, total in sums.items()}


def _cells(of_nic: pd.DataFrame, classes: list[str], receiving: list[str]) -> Iterator[str]:
    sent, received = _sums(of_nic, "tx_bytes"), _sums(of_nic, "rx_bytes")
    total_bytes = sum(sent.values())
    for name in classes:
        share = sent.get(name, 0) / total_bytes if total_bytes else None
        yield f"{size(sent.get(name, 0))} ({percent(share, 2)})"
    for name in receiving:
        yield size(received.get(name))


def _nic(nic: str, port: str) -> str:
    return f"{nic} ({port})" if port else nic
