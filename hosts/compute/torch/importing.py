"""torch for this process: its own, or that of the Python which the host's environment was made from.

An agent's environment on a host is isolated, and torch several GB that no run brings. So the host's torch is
used, behind everything that the environment has itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import site
import subprocess
import sys

from hosts.compute.base import ComputeError

_TIMEOUT_S = 20.0
_FOLDERS = "import site; print(*site.getsitepackages(), sep='\\n')"


def require_torch(python: str) -> None:
    """Make ``import torch`` work, by the packages of ``python`` where this environment has none ('': only by
    its own); raises `ComputeError` if it does not."""
    if importlib.util.find_spec("torch") is None and python:
        for folder in _packages_of(python):
            site.addsitedir(folder)
        importlib.invalidate_caches()
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise ComputeError(
            f"compute: torch is not installed for {python or sys.executable} ({error}): pip install "
            "'dualpath-testbed[gpu]' or torch there"
        ) from error


def _packages_of(python: str) -> list[str]:
    """Where it has its packages; none if it cannot be asked, which the import then shows."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _FOLDERS], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
