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

_LAST_LINES = 3


class RunDirectoryError(ValueError):
    """A new run cannot be put where ``--out`` says: exit code 2."""


class RunStoreError(Exception):
    """A run's records cannot be written: exit code 3."""


class RunStore:
    """Owner of one run directory. ``metadata`` is what `save_metadata` writes."""

    def __init__(self, directory: Path, metadata: dict[str, Any]) -> None:
        self.directory = directory
        self.metadata = metadata

    @classmethod
    def create(cls, directory: Path, metadata: dict[str, Any]) -> RunStore:
        """Make the directory (which must not exist, or be empty) and save the metadata in it.

        Raises RunDirectoryError or RunStoreError.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise RunDirectoryError(
                    f"--out: {directory}: not empty, expected a new or an empty directory"
                )
            (directory / "logs").mkdir()
            (directory / "telemetry").mkdir()
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise RunDirectoryError(f"--out: {directory}: cannot be made: {error.strerror}") from None
        except OSError as error:
            raise disk_error(error, directory) from None
        store = cls(directory, metadata)
        store.save_metadata()
        return store

    def log_file(self, host: str, name: str) -> Path:
        """Where a process of ``host`` logs."""
        path = self.directory / "logs" / host / f"{name}.log"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from None
        return path

    def last_lines(self, host: str) -> str:
        """The end of that host's agent's log, as the end of a sentence; '' if there is none."""
        log = self.directory / "logs" / host / "agent.log"
        try:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        except OSError:
            return ""
        return f"; the last lines of {log}: " + " | ".join(said) if said else ""

    def complete(self) -> None:
        """Mark the run as measured and analysed."""
        self.metadata["status"] = "complete"
        self.save_metadata()

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
            raise disk_error(error, target) from None


def default_directory(experiment: str) -> Path:
    """runs/<experiment>-<UTC time>, to the millisecond: two runs may start in one second."""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]
    return Path("runs") / f"{experiment}-{stamp}"


def disk_error(error: OSError, path: Path) -> RunStoreError:
    """What went wrong at ``path``, in words."""
    if error.errno == errno.ENOSPC:
        return RunStoreError(f"{path}: the disk is full; free some space or choose another --out")
    return RunStoreError(f"{path}: cannot be written: {error.strerror or error}")
