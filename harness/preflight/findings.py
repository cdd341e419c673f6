"""What preflight has to say: one finding a check and host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning", "info", "ok"]
"""An error keeps a run from being valid, or from starting at all; a warning may distort it."""
ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2, "ok": 3}


class Finding(msgspec.Struct, frozen=True):
    """``evidence``: what was found, and what was expected. ``fix``: a command, or a change of the inventory.

    Without a ``host`` it is about the whole rack.
    """

    severity: Severity
    host: str
    check: str
    evidence: str
    fix: str = ""


def one_line(text: str) -> str:
    """What a host says, for a terminal or a file: a line, and nothing that steers either."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By severity; as they come within one."""
    return sorted(findings, key=lambda finding: ORDER[finding.severity])
