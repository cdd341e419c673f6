"""Who owns what: one small file a run, written before anything else exists, locked while its owner lives.

The kernel drops a lock (flock(2)) with its holder, so an unlocked record is a dead run's. A run's
processes carry its id and its namespaces end with them, so the record has only the files to name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from harness.cluster.errors import ClusterError
from hosts.leftovers import LeftoverError, kill_run

_FORMAT_VERSION = 1


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a record holds. ``scratch`` is the run's only directory outside its result directory on this
    machine; ``inventory`` (TOML) names the rack's hosts, where there may be more of it."""

    format_version: int
    run_id: str
    owner_pid: int
    scratch: str
    inventory: str = ""


class RunClaim:
    """A run's id, scratch directory and record, from ``__enter__`` to ``__exit__``; ``inventory`` as in
    `RunRecord`. The record stays, a dead run's, if ``left`` says that something is still on a host, and why.

    The scratch directory is made in ``scratch_parent``, by default where temporary files go. Raises
    ClusterError when either cannot be written.
    """

    def __init__(
        self, state_dir: Path | None = None, scratch_parent: Path | None = None, inventory: str = ""
    ) -> None:
        self.left = ""
        self._inventory = inventory
        self.run_id = secrets.token_hex(4)
        # tempfile.gettempdir would try the directory with a file, which an interrupt could leave there.
        parent = scratch_parent or Path(os.environ.get("TMPDIR") or "/tmp")
        self.scratch = parent.absolute() / _scratch_name(self.run_id)
        self._path = (state_dir or default_state_dir()) / f"{self.run_id}.json"

    def __enter__(self) -> RunClaim:
        record = RunRecord(_FORMAT_VERSION, self.run_id, os.getpid(), str(self.scratch), self._inventory)
        try:
            self._fd = _write_locked(self._path, msgspec.json.encode(record))
        except OSError as error:
            raise ClusterError(
                f"cannot record a run in {self._path.parent}: {error}; fix: make it writable"
            ) from error
        try:
            self.scratch.mkdir(mode=0o700)
        except OSError as error:
            self._withdraw()
            os.close(self._fd)
            raise ClusterError(
                f"cannot make {self.scratch}: {error}; fix: choose another directory"
            ) from error
        except BaseException:
            # An interrupt, perhaps when it had been made: nobody leaves what was not entered.
            with suppress(OSError):
                self.scratch.rmdir()
            self._withdraw()
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            shutil.rmtree(self.scratch)
            if not self.left:
                self._withdraw()
        finally:
            # A directory that could not be removed keeps its record, now a dead run's, for ``cleanup``.
            os.close(self._fd)

    def _withdraw(self) -> None:
        self._path.unlink()
        with suppress(OSError):
            self._path.parent.rmdir()


OnHosts = Callable[[RunRecord], list[str]]
"""Removes what a dead run left on a rack's hosts; a line for each thing. Raises ClusterError."""


def cleanup(state_dir: Path | None = None, on_hosts: OnHosts | None = None) -> list[str]:
    """Remove what runs whose harness is dead have left: processes, scratch directories, records.

    Running ones are not touched, nor is anything a record does not name. Without ``on_hosts``, those of racks
    are left alone. Returns a line for each thing removed. Raises ClusterError for a record that cannot be
    read, after the others have been dealt with.
    """
    directory = state_dir or default_state_dir()
    removed: list[str] = []
    errors: list[ClusterError] = []
    for path in sorted(directory.glob("*.json*")) if directory.is_dir() else []:
        try:
            removed += _clean_one(path, on_hosts)
        except ClusterError as error:
            errors.append(error)
        except (OSError, LeftoverError) as error:
            errors.append(ClusterError(f"{path}: cannot clean up this run: {error}"))
    with suppress(OSError):
        directory.rmdir()
    if errors:
        raise errors[0]
    return removed


def default_state_dir() -> Path:
    """Where this user's records are: /run as root, the user's runtime directory, or a private one in /tmp."""
    if os.access("/run", os.W_OK):
        return Path("/run/dualpath")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "dualpath")
    return Path(f"/tmp/dualpath-{_outer_user_id()}")


def _outer_user_id() -> int:
    """The user's id outside a user namespace, so that a run inside one and a clean-up outside meet."""
    user = os.getuid()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= user < inside + count:
            return outside + user - inside
    return user


def _write_locked(path: Path, content: bytes) -> int:
    """Create ``path`` whole and locked in one step; the open file holds the lock."""
    draft = path.with_suffix(".json.new")
    while True:
        try:
            _make_private(path.parent)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(fd, content)
                os.rename(draft, path)
            except BaseException:
                draft.unlink(missing_ok=True)
                os.close(fd)
                raise
            return fd
        except (FileNotFoundError, BlockingIOError):
            # A clean-up elsewhere took the empty directory or the not yet locked draft for a dead run's.
            continue


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = directory.lstat().st_uid
    if directory.is_symlink() or owner != os.getuid():
        raise ClusterError(f"{directory}: found user {owner}'s, expected our own; fix: remove it")


def _clean_one(path: Path, on_hosts: OnHosts | None) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        if os.fstat(fd).st_nlink == 0:
            return []
        record = _read(path) if path.suffix == ".json" else None
        removed = _remove_run(record) if record else []
        if record and record.inventory:
            if on_hosts is None:
                return removed
            removed += on_hosts(record)
        path.unlink()
        return [*removed, f"record {path}"]
    finally:
        os.close(fd)


def _read(path: Path) -> RunRecord:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except msgspec.DecodeError as error:
        raise ClusterError(f"{path}: not a run's record ({error}); fix: delete it") from error
    scratch = Path(record.scratch)
    if record.run_id != path.stem or scratch.name != _scratch_name(record.run_id):
        raise ClusterError(
            f"{path}: names {scratch}, expected .../{_scratch_name(path.stem)}; nothing was removed"
        )
    return record


def _remove_run(record: RunRecord) -> list[str]:
    scratch = Path(record.scratch)
    removed = [f"process {pid}" for pid in kill_run(record.run_id)]
    if scratch.is_dir() and not scratch.is_symlink():
        shutil.rmtree(scratch)
        removed.append(f"directory {scratch}")
    return removed


def _scratch_name(run_id: str) -> str:
    return f"dualpath-{run_id}"
