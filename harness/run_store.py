"""A run's directory: created once, written atomically, readable at every moment.

Saved at the start, after measuring and after analysis, so that an interrupted run leaves what it had.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd


class RunStoreError(OSError):
    """The run directory cannot be created or written."""


class RunStore:
    """Owner of one run directory. ``metadata`` is what `save_metadata` writes."""

    def __init__(self, directory: Path, metadata: dict[str, Any]) -> None:
        self.directory = directory
        self.metadata = metadata

    @classmethod
    def create(cls, directory: Path, metadata: dict[str, Any]) -> RunStore:
        """Make the directory (which must not exist, or be empty) and save the metadata in it."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise RunStoreError(f"{directory}: not empty; name a new directory with --out")
            (directory / "logs").mkdir()
            (directory / "telemetry").mkdir()
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise RunStoreError(f"{directory}: cannot be made: {error.strerror}") from None
        except OSError as error:
            raise _in_words(error, directory) from None
        store = cls(directory, metadata)
        store.save_metadata()
        return store

    def log_file(self, host: str, name: str) -> Path:
        """Where a process of ``host`` logs."""
        path = self.directory / "logs" / host / f"{name}.log"
        path.parent.mkdir(exist_ok=True)
        return path

    def save_metadata(self) -> None:
        """Write metadata.json."""
        self.save("metadata.json", msgspec.json.format(msgspec.json.encode(self.metadata), indent=1))

    def save(self, name: str, content: bytes) -> None:
        """Write one file, whole or not at all."""
        self._replace(name, lambda path: path.write_bytes(content))

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one Parquet file, whole or not at all."""
        self._replace(name, lambda path: table.to_parquet(path, index=False))

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        target = self.directory / name
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            os.close(handle)
            path = Path(temporary)
            try:
                write(path)
                path.chmod(0o644)
                path.replace(target)
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _in_words(error, target) from None


def default_directory(experiment: str) -> Path:
    """runs/<experiment>-<UTC time>."""
    return Path("runs") / f"{experiment}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _in_words(error: OSError, path: Path) -> RunStoreError:
    if error.errno == errno.ENOSPC:
        return RunStoreError(f"{path}: the disk is full; free some space or choose another --out")
    return RunStoreError(f"{path}: cannot be written: {error.strerror or error}")
