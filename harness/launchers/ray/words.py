"""Ray's errors in words: on one line, without what is of no use to who reads them."""

from __future__ import annotations

import re

_IDENTITY = re.compile(r"^\s*(class_name|actor_id|pid|name|namespace|ip): .*$", re.MULTILINE)
_CHATTER = (
    "The actor died unexpectedly before finishing this task.",
    "The task may or may not have been executed on the actor.",
)
_ADVICE = re.compile(r"Some common causes include.*", re.DOTALL)
_SHOWN_CHARACTERS = 300


class LostError(Exception):
    """A host's actor cannot be had, or is gone; in words."""


def why_lost(error: Exception) -> str:
    """Why an actor does not answer, from what Ray raised."""
    text = _ADVICE.sub("", _IDENTITY.sub("", str(error)))
    for chatter in _CHATTER:
        text = text.replace(chatter, "")
    return " ".join(text.split())[:_SHOWN_CHARACTERS] or "Ray does not say why its actor is gone"


def why_not_connected(error: Exception) -> str:
    """Why there is no connection to a cluster that has been found there."""
    text = " ".join(str(error).split())
    if "Version mismatch" in text:
        return f"{text}; fix: a virtual environment with the cluster's Python, and its ray in there"
    return f"cannot join the Ray cluster: {text[:_SHOWN_CHARACTERS]}"
