"""Numbers as people read them: three or four significant digits and a unit."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, log10

from reports.statistics import Estimate

ABSENT = "–"


def seconds(value: float | None) -> str:
    """``0.0123`` -> ``12.3 ms``."""
    if value is None:
        return ABSENT
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 0.9995:
            return f"{_digits(value * factor)} {unit}"
    return "0 s" if value == 0 else f"{value * 1e6:.2g} µs"


def size(value: float | None) -> str:
    """Bytes in decimal prefixes: ``1.5e9`` -> ``1.50 GB``."""
    return _prefixed(value, 1e3, ("B", "kB", "MB", "GB", "TB", "PB"))


def rate(gbit_per_s: float | None) -> str:
    """``0.19`` -> ``190 Mbit/s``."""
    bits = None if gbit_per_s is None else gbit_per_s * 1e9
    return _prefixed(bits, 1e3, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


def percent(value: float | None, digits: int = 1) -> str:
    """``0.973`` -> ``97.3 %``."""
    return ABSENT if value is None else f"{value * 100:.{digits}f} %"


def number(value: float | None) -> str:
    """A plain figure with at least three significant digits."""
    return ABSENT if value is None else _digits(value)


def interval(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    """The bounds of an estimate, each as ``show`` writes it."""
    if estimate is None or estimate.ci_low is None or estimate.ci_high is None:
        return ABSENT
    return f"{show(estimate.ci_low)} – {show(estimate.ci_high)}"


def _prefixed(value: float | None, step: float, units: tuple[str, ...]) -> str:
    if value is None:
        return ABSENT
    index = 0
    while abs(value) >= step and index < len(units) - 1:
        value, index = value / step, index + 1
    return f"{_digits(value)} {units[index]}"


def _digits(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    magnitude = abs(value)
    decimals = 0 if magnitude >= 1000 else 1 if magnitude >= 100 else 2 - min(0, floor(log10(magnitude)))
    return f"{value:,.{decimals}f}"
