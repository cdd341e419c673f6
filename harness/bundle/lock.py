"""The lock of what hosts need of third parties: `hosts.lock`, compiled from `requirements/hosts.in`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_REQUIREMENT = re.compile(r"^(\S+==\S+)((?:\s*\\\n\s*--hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def lock_text() -> str:
    """The lock as pip reads it."""
    return resources.files("harness.bundle").joinpath("hosts.lock").read_text(encoding="utf-8")


def locked(text: str) -> Mapping[str, frozenset[str]]:
    """Each ``name==version``, with the hashes of the files that may be it."""
    return {
        requirement: frozenset(re.findall(r"[0-9a-f]{64}", hashes))
        for requirement, hashes in _REQUIREMENT.findall(text)
    }
