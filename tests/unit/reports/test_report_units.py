from __future__ import annotations

import pytest

from reports.statistics import Estimate
from reports.units import ABSENT, interval, number, seconds


@pytest.mark.parametrize(
    ("value", "text"), [(0.2, "0.200"), (0.01234, "0.0123"), (12.345, "12.35"), (1234.5, "1,234"), (0, "0")]
)
def test_a_number_keeps_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_needs_both_bounds() -> None:
    assert interval(Estimate(1.5, 1.0, 2.0), seconds) == "1 s – 2 s"
    assert interval(Estimate(1.5), seconds) == interval(None, seconds) == ABSENT
