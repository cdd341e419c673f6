"""Our own code as a wheel, whose bytes depend on the code alone: sorted, stored, without times."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import hosts
import workloads

_DISTRIBUTION = "dualpath-testbed"
_PACKAGES = tuple(Path(package.__path__[0]) for package in (hosts, workloads))
"""What an agent imports, as it is here: of a checkout, with its changes."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The beginning of time in a zip file."""


def code_wheel(packages: Sequence[Path] = _PACKAGES) -> bytes:
    """The wheel of the packages in these folders, less what Python and editors keep beside sources."""
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for package in packages
        for path in package.rglob("*")
        if path.is_file() and not any(map(_beside_sources, path.relative_to(package).parts))
    }
    return wheel_of(_DISTRIBUTION, metadata.version(_DISTRIBUTION), files)


def wheel_of(distribution: str, version: str, files: Mapping[str, bytes]) -> bytes:
    """A wheel for any Python that holds ``files``, by their names in it (PEP 427)."""
    info = f"{distribution.replace('-', '_')}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    content = {
        **files,
        f"{info}/METADATA": about.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},{_record_hash(content[name])},{len(content[name])}\n" for name in sorted(content)]
    content[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content[name])
    return wheel.getvalue()


def _beside_sources(name: str) -> bool:
    return name == "__pycache__" or name.startswith(".")


def _record_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.decode().rstrip('=')}"
