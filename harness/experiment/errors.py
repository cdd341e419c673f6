"""Errors of experiment files and hardware profiles, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExperimentError(ValueError):
    """An experiment that cannot run: names the file and the key."""


_MEANT = {"gpu": "cuda"}
"""Words that look like another choice than the one that is meant."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is meant, or nothing."""
    known = list(known)
    close = [meant] if (meant := _MEANT.get(name)) in known else difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
