"""Whole files or none: what a reader finds under the final name is always complete."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``; on failure the former file stays and nothing else is left."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as scratch:
        try:
            scratch.write(content)
            scratch.flush()
            os.fsync(scratch.fileno())
            os.chmod(scratch.name, 0o644)
            os.replace(scratch.name, path)
        except BaseException:
            os.unlink(scratch.name)
            raise
