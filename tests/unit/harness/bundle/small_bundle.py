"""A bundle that is small: two packages of third parties and an agent that imports them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness.bundle import deploy
from harness.bundle.code_wheel import wheel_of

AGENT = """
import json, sys, first, second
print(json.dumps({"arguments": sys.argv[1:], "path": sys.path, "version": VERSION}), flush=True)
if "stay" in sys.argv:
    sys.stdin.read()
"""


class SmallBundle:
    """Its wheels are in a folder that pip takes for the package index."""

    def __init__(self, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._index = index
        self._patch = monkeypatch
        self.lock = ""

    def require(self, name: str, content: bytes = b"", tag: str = "py3-none-any") -> str:
        """Add a package to the lock and the index; the hash of its wheel."""
        wheel = wheel_of(name, "1.0", {f"{name}.py": content})
        (self._index / f"{name}-1.0-{tag}.whl").write_bytes(wheel)
        sha256 = hashlib.sha256(wheel).hexdigest()
        self.lock += f"{name}==1.0 \\\n    --hash=sha256:{sha256}\n"
        self._patch.setattr(deploy, "lock_text", lambda: self.lock)
        return sha256

    def write_agent(self, version: int, source: str = AGENT) -> None:
        """Another version of our code."""
        files = {"hosts/__init__.py": b"", "hosts/agent.py": f"VERSION = {version}\n{source}".encode()}
        wheel = wheel_of("dualpath-testbed", "0.1.0", files)
        self._patch.setattr(deploy, "code_wheel", lambda: wheel)
