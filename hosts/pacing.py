"""Token bucket: what stands in for a shaped NIC where the kernel shapes none (loopback mode)."""

from __future__ import annotations

import asyncio
import time

BURST_S = 0.002
"""A bucket holds what its rate delivers in this time: a NIC ring's worth, not a loophole."""


class TokenBucket:
    """Meters bytes to ``bytes_per_s`` with a burst of ``BURST_S`` at that rate; 0 means not metered.

    Works in reservations: each names the moment at which its last byte has passed, so that users
    who wait until then are served in the order they asked, and an idle link saves up no more than
    the burst.
    """

    def __init__(self, bytes_per_s: float) -> None:
        if bytes_per_s < 0:
            raise ValueError(f"pace {bytes_per_s} bytes/s: expected 0 (not paced) or more")
        self.bytes_per_s = bytes_per_s
        self._passed_at = float("-inf")

    def reserve(self, nbytes: int, now_at: float) -> float:
        """Take ``nbytes``; the time in seconds, on ``now_at``'s clock, when they have passed."""
        if self.bytes_per_s == 0:
            return now_at
        self._passed_at = max(self._passed_at, now_at - BURST_S) + nbytes / self.bytes_per_s
        return self._passed_at

    async def take(self, nbytes: int) -> None:
        """Take ``nbytes`` and wait until they have passed."""
        now_at = time.monotonic()
        wait_s = self.reserve(nbytes, now_at) - now_at
        await asyncio.sleep(max(0.0, wait_s))
