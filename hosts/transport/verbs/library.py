"""The RDMA user-space libraries of this host: pyverbs, which the distribution or the NIC's vendor installs.

pyverbs is bound to the libibverbs it was built with, so it cannot come with this package; an isolated
environment is shown the distribution's one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_DISTRIBUTION_PACKAGES = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib64/python3.{minor}/site-packages",
    "/usr/lib/python3.{minor}/site-packages",
)
_INSTALL = "apt-get install python3-pyverbs ibverbs-providers (or the NIC vendor's stack)"


class PyverbsError(Exception):
    """pyverbs cannot be used here; says why and what to do."""


def require_pyverbs() -> None:
    """Make ``import pyverbs`` work in this environment; raises `PyverbsError` if it does not."""
    if importlib.util.find_spec("pyverbs") is None:
        _adopt(_distribution_package())
    try:
        importlib.import_module("pyverbs.device")
    except ImportError as error:
        raise PyverbsError(_why(error)) from error


def _distribution_package() -> Path:
    candidates = [
        Path(folder.format(minor=sys.version_info.minor)) / "pyverbs" for folder in _DISTRIBUTION_PACKAGES
    ]
    for package in candidates:
        if package.is_dir():
            return package
    searched = ", ".join(str(package.parent) for package in candidates)
    raise PyverbsError(f"pyverbs is not installed: not importable and not in {searched}; {_INSTALL}")


def _adopt(package: Path) -> None:
    """Make one package of another environment importable, and nothing else of it."""
    spec = importlib.util.spec_from_file_location(
        "pyverbs", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None, "a file location has a loader"
    assert spec.loader is not None, "a file location has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules["pyverbs"] = module
    spec.loader.exec_module(module)


def _why(error: ImportError) -> str:
    message = str(error)
    if "IBVERBS_PRIVATE" in message:
        return (
            f"pyverbs and libibverbs are of different versions ({message}); install both from "
            f"one source: {_INSTALL}"
        )
    if "No module named" in message and "pyverbs." in message:
        return (
            f"pyverbs here is not built for Python {sys.version_info.major}.{sys.version_info.minor} "
            f"({message}); use the distribution's Python, or {_INSTALL} for this one"
        )
    return f"pyverbs does not load ({message}); {_INSTALL}"
