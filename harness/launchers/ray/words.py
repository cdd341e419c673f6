"""Ray's errors in words."""

from __future__ import annotations

from ray.exceptions import RayError


class LostError(Exception):
    """A host's actor is gone, in words."""


def why_lost(error: RayError) -> str:
    """Why an actor does not answer."""
    return type(error).__name__ + str(error)
