"""Ceilings of the same storage paths, measured at two times: do they agree?"""

from __future__ import annotations

from collections.abc import Mapping

from reports.metadata import Ceiling
from reports.units import percent, rate

CEILING_DRIFT = 0.05
"""Relative change of a path's ceiling above which what was measured before and after is not alike."""


def payload_rate(ceiling: Ceiling) -> str:
    """``95.6 Mbit/s``, emulated."""
    return rate(ceiling.storage_read_bytes_per_s * 8 / 1e9)


def change(before: Ceiling, after: Ceiling) -> float:
    """Relative: 0.08 is 8 % faster."""
    if not before.storage_read_bytes_per_s:
        return float("inf") if after.storage_read_bytes_per_s else 0.0
    return after.storage_read_bytes_per_s / before.storage_read_bytes_per_s - 1


def drifted(before: Mapping[str, Ceiling], after: Mapping[str, Ceiling]) -> dict[str, str]:
    """By host, of those measured both times: what changed by more than is usual, in words."""
    changes = {host: change(ceiling, after[host]) for host, ceiling in before.items() if host in after}
    return {
        host: f"{payload_rate(before[host])}, then {payload_rate(after[host])} ({relative * 100:+.1f} %); "
        f"within {percent(CEILING_DRIFT, 0)} is usual"
        for host, relative in changes.items()
        if abs(relative) > CEILING_DRIFT
    }
