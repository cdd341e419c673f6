"""A run under way: what is known, what it is doing, what has been recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.preparation import Preparation
from harness.progress import RunProgress
from harness.recording import (
    Repetition,
    forwards_table,
    transfers_table,
    turns_table,
)
from harness.run_store import RunStore, RunStoreError
from harness.scheduling import Limits
from harness.telemetry_tables import classes_table, errors_table, hosts_table, nics_table

_NO_LIMITS = Limits({}, 0.0, 0, 0)  # until ceilings are measured


@dataclass(slots=True)
class Run:
    """``roles`` by host; ``limits`` of the request scheduler; ``storage_log`` is the storage server's."""

    preparation: Preparation
    store: RunStore
    progress: RunProgress
    limits: Limits = _NO_LIMITS
    repetitions: list[Repetition] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    storage_log: bytes = b""
    _doing: str = ""
    _replayed: Repetition | None = None

    def begin(self, phase: str) -> None:
        """Say what comes now, to whoever watches and for an error that it meets."""
        self._doing = phase
        self.progress.phase(phase)

    def begin_replay(self, repetition: Repetition, label: str, turns: int | None) -> None:
        """As `begin`, for a repetition that is recorded; ``turns`` if it is known how many."""
        self.repetitions.append(repetition)
        self._doing, self._replayed = f"replaying {label}", repetition
        self.progress.begin_repetition(label, turns)

    def in_flight(self) -> str:
        """What an error interrupts."""
        turns = self._replayed.in_flight() if self._replayed else ""
        return f"while {self._doing}" + (f", {turns}" if turns else "")

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Save everything measured when the run ends, however it ends; the status says how."""
        stored = self.store.metadata
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            stored["status"] = "interrupted" if interrupted else "failed"
            stored["failure"] = f"interrupted {self.in_flight()}" if interrupted else str(error)
            try:
                self._save()
            except RunStoreError as second:
                error.add_note(f"not all records are saved: {second}")
            raise
        stored["status"] = "measured"
        self._save()

    def _save(self) -> None:
        store, repetitions = self.store, self.repetitions
        store.metadata["repetitions"] = [r.summary() for r in repetitions]
        store.save_metadata()
        store.save_table("turns.parquet", turns_table(repetitions))
        store.save_table("transfers.parquet", transfers_table(repetitions))
        store.save_table("forwards.parquet", forwards_table(repetitions))
        store.save_table("telemetry/nics.parquet", nics_table(repetitions, self.roles))
        store.save_table("telemetry/classes.parquet", classes_table(repetitions, self.roles))
        store.save_table("telemetry/errors.parquet", errors_table(repetitions, self.roles))
        store.save_table("telemetry/hosts.parquet", hosts_table(repetitions, self.roles))
        if self.storage_log:
            store.log_file("storage", "server")
            store.save("logs/storage/server.log", self.storage_log)
