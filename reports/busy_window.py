"""The busy window: when every storage NIC that the policy uses has work to do, whatever it makes of it.

For one repetition of one policy::

    R       = hosts whose storage reads come to >= 10 % of the bytes of the host that reads most
    begin   = first begin of a storage read on any host
    end     = min( min over R of the end of that host's last storage read,
                   the instant at which half of the sessions are done )
    busy utilization of host h = payload bytes that h read from storage in [begin, end]
                                 / ((end - begin) x ceiling of h)

R are the storage NICs that should be busy. The first bound leaves out the tail in which a NIC has nothing
left to read; the second the tail in which too few sessions remain to ask for it. Both bounds are about
demand: a NIC that waits although sessions want data (a slow scheduler, a full buffer, a late transfer) stays
in the window and lowers its utilization, and so does the ramp at the start. A read's record begins when it
joins the host's read queue; its bytes are spread over the time from the host's previous completion (or its
own begin, if later) to its own end, so that a read that
waits across the window's end does not count as moved.

Payload over payload: both the bytes and the ceiling exclude protocol headers. Instants of different hosts
are each measured from when that host was told that the repetition began, so they agree within one control
message (about a millisecond), against windows of seconds.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd

BUSY_SHARE = 0.10
"""Share of the busiest host's storage reads below which a host is not expected to be busy."""


class BusyWindow(msgspec.Struct, frozen=True):
    """The window and the hosts that should be busy in it."""

    begin_at_ns: int
    end_at_ns: int
    busy_hosts: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """Length in emulated seconds, always positive."""
        return (self.end_at_ns - self.begin_at_ns) / 1e9


def storage_reads(transfers: pd.DataFrame) -> pd.DataFrame:
    """The storage reads among a run's transfers."""
    return transfers[transfers["kind"] == "storage_read"]


def busy_window(transfers: pd.DataFrame, turns: pd.DataFrame) -> BusyWindow | None:
    """The busy window of one repetition's rows; None when it read nothing from storage (oracle)."""
    reads = storage_reads(transfers)
    by_host = reads.groupby("host")["bytes"].sum()
    by_host = by_host[by_host > 0]
    if by_host.empty:
        return None
    busy = by_host[by_host >= BUSY_SHARE * by_host.max()].index
    last_read_at_ns = reads[reads["host"].isin(busy)].groupby("host")["end_at_ns"].max().min()
    begin_at_ns = int(reads["begin_at_ns"].min())
    end_at_ns = int(min(last_read_at_ns, _half_done_at_ns(turns)))
    if end_at_ns <= begin_at_ns:
        return None
    return BusyWindow(begin_at_ns, end_at_ns, tuple(sorted(str(host) for host in busy)))


def bytes_within(transfers: pd.DataFrame, begin_at_ns: float, end_at_ns: float) -> float:
    """Bytes of one host's transfers of one kind within an interval, each spread over its service time."""
    ordered = transfers.sort_values("end_at_ns")
    end = ordered["end_at_ns"].to_numpy(dtype=np.float64)
    begin = ordered["begin_at_ns"].to_numpy(dtype=np.float64)
    begin[1:] = np.maximum(begin[1:], end[:-1])
    # Completions within one tick of the clock have no service time of their own; give them the tick.
    begin = np.minimum(begin, end - 1)
    inside = np.clip(np.minimum(end, end_at_ns) - np.maximum(begin, begin_at_ns), 0, None)
    return float((ordered["bytes"].to_numpy(dtype=np.float64) * inside / (end - begin)).sum())


def _half_done_at_ns(turns: pd.DataFrame) -> float:
    done_at_ns = np.sort(turns.groupby("session_id")["done_at_ns"].max().to_numpy(dtype=np.float64))
    if done_at_ns.size == 0:
        return float("inf")
    return float(done_at_ns[(done_at_ns.size - 1) // 2])
