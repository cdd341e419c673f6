"""Errors of experiment files and hardware profiles, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExperimentError(ValueError):
    """An experiment that cannot run: names the file and the key."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is meant, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
