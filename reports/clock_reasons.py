"""What holds a GPU's clocks back: the clocks event reasons of NVML (nvmlClocksEventReason*), in words.

Which of them are throttling: those by which heat or the power supply takes clocks away that the GPU is sold
with (slowdowns and the power brake). A power cap does, too, but it is what a GPU under full load runs into by
design. The rest are settings, and being idle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IDLE = 0x001
POWER_CAP = 0x004
REASONS = {
    IDLE: "idle",
    0x002: "applications clocks setting",
    POWER_CAP: "SW power cap",
    0x008: "HW slowdown",
    0x010: "sync boost",
    0x020: "SW thermal slowdown",
    0x040: "HW thermal slowdown",
    0x080: "HW power brake",
    0x100: "display clocks setting",
    0x200: "board limit",
    0x400: "reliability limit",
}
SLOWING = 0x008 | 0x020 | 0x040 | 0x080
ALL = (1 << 63) - 1

Masks = npt.NDArray[np.int64]


def share(masks: Masks, reasons: int) -> float:
    """Of samples, those with any of ``reasons``. An idle GPU has no work that could be slowed."""
    counted = masks if reasons & IDLE else masks[(masks & IDLE) == 0]
    return float(np.count_nonzero(counted & reasons)) / masks.size if masks.size else 0.0


def shares(masks: Masks, reasons: int = ALL) -> dict[str, float]:
    """Of samples, those with each of ``reasons`` that any has, in words; an unknown one is its bit."""
    seen = int(np.bitwise_or.reduce(masks, initial=0)) & reasons
    bits = [1 << place for place in range(seen.bit_length()) if seen >> place & 1]
    found = {REASONS.get(bit, hex(bit)): share(masks, bit) for bit in bits}
    return {name: part for name, part in found.items() if part}
