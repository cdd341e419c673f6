"""A run's directory: created once, written atomically, readable at every moment.

Saved at the start, after measuring and after analysis, so that an interrupted run leaves what it had.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

_LAST_LINES = 3
_UNCHANGED = (
    "format_version",
    "dualpath_version",
    "experiment",
    "trace",
    "scale",
    "model",
    "profile",
    "emulation",
)
"""What has to be the same for repetitions to be comparable."""


class RunDirectoryError(ValueError):
    """What a run leaves cannot be put where an option says: exit code 2."""


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
        store._lock()
        store.save_metadata()
        return store

    @classmethod
    def reopen(cls, directory: Path, metadata: dict[str, Any]) -> RunStore:
        """A run to be gone on with, in the same circumstances ``metadata``; raises RunDirectoryError."""
        try:
            stored = msgspec.json.decode((directory / "metadata.json").read_bytes(), type=dict[str, Any])
        except OSError as error:
            raise RunDirectoryError(
                f"--resume: {directory}/metadata.json: cannot be read ({error.strerror}); expected the "
                "directory of a run that did not finish"
            ) from None
        except msgspec.DecodeError as error:
            raise RunDirectoryError(
                f"--resume: {directory}/metadata.json: not a run's ({error}); repeat the run"
            ) from None
        for key in _UNCHANGED:
            before, now = stored.get(key), msgspec.json.decode(msgspec.json.encode(metadata[key]))
            if before != now:
                raise RunDirectoryError(
                    f"--resume: {directory}: {key}: {_first_difference(before, now)}; what was measured "
                    "before cannot be compared with what would be; repeat the run in a new directory"
                )
        store = cls(directory, stored)
        store._lock()
        return store

    def _lock(self) -> None:
        """Let nobody else write here while this process lives."""
        self._locked = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._locked)
            raise RunDirectoryError(f"{self.directory}: a run is writing here; wait for its end") from None

    def log_file(self, host: str, name: str) -> Path:
        """Where a process of ``host`` logs."""
        path = self.directory / "logs" / host / f"{name}.log"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from None
        return path

    def log_of(self, host: str, *, last_lines: bool) -> str:
        """That host's agent's log, or its end, as the end of a sentence; '' if there is none."""
        log = self.directory / "logs" / host / "agent.log"
        try:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        except OSError:
            return ""
        if not said:
            return ""
        return f"; the last lines of {log}: " + " | ".join(said) if last_lines else f"; its log: {log}"

    @property
    def finished(self) -> bool:
        """Whether everything has been measured."""
        return self.metadata["status"] in ("measured", "complete")

    def begin(self) -> None:
        """Mark the run as under way."""
        self.metadata.update(status="running", failure=None)
        self.save_metadata()

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


def _first_difference(before: Any, now: Any, path: str = "") -> str:
    """Where two JSON documents differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return _first_difference(before.get(key), now.get(key), f"{path}.{key}")
    return f"{path.lstrip('.') or 'it'} was {before!r}, is {now!r}"


def default_directory(experiment: str) -> Path:
    """runs/<experiment>-<UTC time>, to the millisecond: two runs may start in one second."""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]
    return Path("runs") / f"{experiment}-{stamp}"


def disk_error(error: OSError, path: Path) -> RunStoreError:
    """What went wrong at ``path``, in words."""
    if error.errno == errno.ENOSPC:
        return RunStoreError(f"{path}: the disk is full; free some space or choose another --out")
    return RunStoreError(f"{path}: cannot be written: {error.strerror or error}")
