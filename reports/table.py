"""A table of the report, once for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Table(NamedTuple):
    """Plain text cells.

    If ``numeric``, columns hold figures but for the first ``labels``, which name the row, and the last
    ``remarks``, which are prose.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    numeric: bool = True
    labels: int = 1
    remarks: int = 0

    def holds_figures(self, column: int) -> bool:
        """Whether cells of this column are aligned as figures."""
        return self.numeric and self.labels <= column < len(self.columns) - self.remarks


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots, with their values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
