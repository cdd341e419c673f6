from __future__ import annotations

import pytest

from harness.repetitions import alternating


@pytest.mark.parametrize(
    ("repetitions", "expected"), [(1, "AB"), (2, "ABBA"), (3, "ABBAAB"), (4, "ABBAABBA")]
)
def test_policies_alternate(repetitions: int, expected: str) -> None:
    assert "".join(alternating(("A", "B"), repetitions)) == expected
